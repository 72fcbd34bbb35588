"""`make bench-timing`: which statistic of interleaved turns says the same twice on a shared machine.

The dense MiniLM and its int8 file take turns for some minutes. The series is cut into windows, each as
long as a comparison might last, and the speed-up of every window is worked out by several statistics. The
one whose windows differ least is the one to certify with. Written to bench/results/timing.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.main import ROOT, base_model
from bench.record import machine, record
from models.spec import Quantize, Recipe
from worker.engine.export.onnx import GRAPH_FILE, save_onnx_folder
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.latency import TURN_SECONDS
from worker.engine.measure.machine import usable_processors
from worker.engine.measure.probing import ModelFile, probe
from worker.engine.prepare import load_model, load_tokenizer
from worker.engine.tasks import TASKS

RESULTS = ROOT / "bench" / "results" / "timing.json"
LABELS = 30
WINDOWS = (10, 20, 40)  # seconds
SEED = 0


def main() -> None:
    """Take the series and record what each statistic says about its windows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as folder:
        taken = series(Path(folder), seconds)
    windows = {str(window): spread_of_statistics(taken, window) for window in WINDOWS}
    record("machine", machine() | {"threads": usable_processors()}, RESULTS)
    record("series", {"seconds": seconds, "rounds": len(taken), "seed": SEED}, RESULTS)
    record("speedup_of_int8_by_window_seconds", windows, RESULTS)
    for window, statistics in windows.items():
        for name, value in statistics.items():
            print(f"{window:>3} s  {name:22} {value}")


def series(folder: Path, seconds: float) -> npt.NDArray[np.float64]:
    """Seconds since the start and milliseconds a call of both models, a row for each round."""
    task, labels = TASKS["text-classification"], [str(label) for label in range(LABELS)]
    model, _ = load_model(base_model(), task, labels=labels, seed=SEED)
    tokenizer = load_tokenizer(base_model())
    recipes = {"dense": Recipe(), "int8": Recipe(steps=(Quantize(),))}
    for name, recipe in recipes.items():
        quantize = next((step for step in recipe.steps if isinstance(step, Quantize)), None)
        save_onnx_folder(model, tokenizer, folder / name, quantize=quantize, max_length=128)
    rows: list[list[float]] = []
    inputs = _inputs(model.config.vocab_size)
    with ExitStack() as stack:
        probes = [
            stack.enter_context(
                probe(ModelFile(folder / name / GRAPH_FILE), inputs, threads=usable_processors())
            )
            for name in recipes
        ]
        began = time.monotonic()
        usual = [float(np.median(each.timed(calls=40, warmup=5).ms)) for each in probes]
        repeats = [max(1, round(1000 * TURN_SECONDS / (40 * ms))) for ms in usual]
        while (now := time.monotonic() - began) < seconds:
            turns = [
                each.timed(calls=40, repeats=n, warmup=5) for each, n in zip(probes, repeats, strict=True)
            ]
            rows.append([now, *(float(np.median(turn.ms, axis=0).mean()) for turn in turns)])
    return np.array(rows)


def spread_of_statistics(taken: npt.NDArray[np.float64], window: float) -> dict[str, Any]:
    """Median, smallest and largest speed-up over overlapping windows, and its standard deviation."""
    said: dict[str, list[float]] = {}
    for start in np.arange(0.0, taken[-1, 0] - window, window / 2):
        dense, int8 = taken[(taken[:, 0] >= start) & (taken[:, 0] < start + window), 1:].T
        for name, value in {
            "median of ratios": np.median(dense / int8),
            "ratio of means": dense.mean() / int8.mean(),
            "ratio of medians": np.median(dense) / np.median(int8),
            "ratio of lower quartiles": np.percentile(dense, 25) / np.percentile(int8, 25),
            "ratio of minima": dense.min() / int8.min(),
        }.items():
            said.setdefault(name, []).append(float(value))
    return {
        name: {
            "median": round(float(np.median(values)), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
            "standard_deviation": round(float(np.std(values)), 3),
        }
        for name, values in said.items()
    }


def _inputs(vocabulary: int) -> BenchInputs:
    """Rows as long as short questions are: about fifteen tokens, some far longer."""
    generator = np.random.default_rng(SEED)
    lengths = np.clip(generator.lognormal(2.6, 0.4, 400), 6, 60).astype(int)
    ids = [generator.integers(1000, vocabulary, size=length) for length in lengths]
    types = [np.zeros_like(row) for row in ids]
    return BenchInputs.sample(
        ids, batch_size=1, sequence_length="data", pad_id=0, token_types=types, seed=SEED
    )


if __name__ == "__main__":
    main()
