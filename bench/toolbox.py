"""`make bench-toolbox`: what every approximation does to the real MiniLM on two tasks, alone and on int8.

    AXFORGE_BENCH_DATA=FOLDER python -m bench.toolbox [--tasks trec sst2] [--only NAME ...] [--cache FOLDER]
    AXFORGE_BENCH_DATA=FOLDER python -m bench.toolbox --dry     # a few rows: does it run to its end?
    python -m bench.toolbox --show                              # a table of the results; measures nothing

The model is fine-tuned once for a task and kept in the cache folder. Every approximation of the engine is
applied at a standard strength (`bench/strengths.py`; one that has none there ends the bench), exported in
fp32 and as int8, and scored on the selection split. What is usually followed by training is then distilled
for a moment and scored again. At the end the files of all approximations, the dense model and its int8 form
are timed in turns, one comparison a task: what disturbs the machine for some seconds disturbs all of them.
Written to bench/results/toolbox.json (of a dry run: out/bench-dry). Single runs with one seed: small
differences mean nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bench.main import ROOT, base_model, data_folder
from bench.record import dry, machine, record
from bench.strengths import STRENGTHS, Applied, Bench
from models.spec import JobSpec, Quantize, Recipe
from worker.engine.anatomy.slicing import sliced
from worker.engine.approximations import APPROXIMATIONS
from worker.engine.delivery import Delivered, deliver
from worker.engine.measure.latency import compare
from worker.engine.measure.machine import usable_processors
from worker.engine.origin import Origin
from worker.engine.pipeline import do_stages
from worker.engine.reporting import SilentReporter, Stage
from worker.engine.run import Run
from worker.engine.stages.fitting import learning_rate, recovered, trial_options

RESULTS = ROOT / "bench" / "results" / "toolbox.json"
CACHE = ROOT / "out" / "bench-toolbox"
DATA: dict[str, dict[str, Any]] = {
    "trec": {"columns": {"text": "text", "label": "coarse_label"}},
    "sst2": {"columns": {"text": "sentence", "label": "label"}, "max_train_rows": 6000},
}
STAGES: tuple[Stage, ...] = ("prepare", "baseline")
SEED = 0
FORMS = ("alone", "on_int8")


@dataclass(frozen=True)
class Effort:
    """How long is spent on what, so that both tasks take less than twenty minutes on two cores.

    `minutes`: of the job whose baseline is used, of which fine-tuning takes up to 0.22; `timing_seconds`: of
    each file; `rows`: training rows at most, None for as many as the task has here.
    """

    minutes: float = 10.0
    recovery_seconds: float = 5.0
    timing_seconds: float = 4.0
    rows: int | None = None


DRY = Effort(minutes=2.0, recovery_seconds=1.0, timing_seconds=0.5, rows=400)


@dataclass(frozen=True)
class Timed:
    """A file, and whose tokenizer cuts its inputs where that is not the dense model's."""

    delivered: Delivered
    origin: Origin | None = None


def main() -> None:
    """Measure what is asked for, and record it task by task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tuple(DATA), default=list(DATA))
    parser.add_argument("--only", nargs="+", choices=tuple(APPROXIMATIONS), default=list(APPROXIMATIONS))
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    if arguments.show:
        print(
            "\n\n".join(
                table(task, json.loads(arguments.results.read_text())[task]) for task in arguments.tasks
            )
        )
        return
    ensure_all_have_strengths()
    effort, results = (DRY, dry(RESULTS)) if arguments.dry else (Effort(), arguments.results)
    record("machine", machine() | {"threads": usable_processors()}, results)
    record("effort", asdict(effort) | {"seed": SEED}, results)
    for task in arguments.tasks:
        began = time.monotonic()
        run = fine_tuned(task, arguments.cache, effort)
        ready = time.monotonic()
        measured = toolbox(run, task, arguments.only, effort)
        measured["seconds"] = {"baseline": round(ready - began, 1), "all": round(time.monotonic() - began, 1)}
        record(task, measured, results)


def ensure_all_have_strengths() -> None:
    """Raises SystemExit for an approximation that the bench does not know how to apply."""
    if without := sorted(set(APPROXIMATIONS) - set(STRENGTHS)):
        raise SystemExit(f"give these approximations a standard strength in bench/strengths.py: {without}")


def fine_tuned(task: str, cache: Path, effort: Effort) -> Run:
    """A run that has a dense model for the task, from the cache where it was made before."""
    rows = {} if effort.rows is None else {"max_train_rows": effort.rows}
    spec = JobSpec.model_validate(
        {
            "base_model": {"path": str(base_model())},
            "dataset": {"path": str(data_folder(task)), **DATA[task], **rows},
            # Without bounds the baseline tries no smaller vocabulary by itself.
            "approximations": ["prune_vocabulary", "quantize"],
            "budget": {"max_minutes": effort.minutes},
            "seed": SEED,
        }
    )
    run = Run(spec, cache / f"{task}-{spec.digest()[:12]}", SilentReporter())
    do_stages(run, STAGES)
    return run


def toolbox(run: Run, task: str, names: list[str], effort: Effort) -> dict[str, Any]:
    """Dense, int8, and each of the approximations in its variants."""
    bench = Bench(run)
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as name:
        folder = Path(name)
        dense = deliver(run, bench.anatomy.model, Recipe(), folder / "dense")
        int8 = deliver(run, bench.anatomy.model, Recipe(steps=(Quantize(),)), folder / "int8")
        found: dict[str, Any] = {}
        timed = {"dense": Timed(dense), "int8": Timed(int8)}
        for approximation in names:
            for variant, applied in STRENGTHS[approximation](bench).items():
                label = f"{approximation} ({variant})"
                found[label], files = effect(bench, applied, dense, folder / label, effort)
                timed |= {f"{label}/{form}": Timed(file, applied.origin) for form, file in files.items()}
                print(f"{task:6} {label:60} {found[label]}", flush=True)
        speedups = times(run, timed, effort.timing_seconds * len(timed))
        for label, told in found.items():
            for form in told.keys() & FORMS:
                told[form]["speedup"] = speedups[f"{label}/{form}"]
        return {
            "metric": run.spec.metric,
            "selection_rows": len(run.selection),
            "dense": _told(dense, dense),
            "int8": _told(int8, dense) | {"speedup": speedups["int8"]},
            "approximations": found,
        }


def effect(
    bench: Bench, applied: Applied, dense: Delivered, folder: Path, effort: Effort
) -> tuple[dict[str, Any], dict[str, Delivered]]:
    """One variant: its files by their form, scored, then trained for a moment and scored again."""
    began = time.monotonic()
    model = sliced(bench.anatomy.model, bench.anatomy.shape(Recipe(steps=applied.steps)))
    files = _delivered(bench, model, applied, folder)
    seconds = time.monotonic() - began
    told: dict[str, Any] = {name: _told(each, dense) for name, each in files.items()}
    told["seconds_to_apply_export_and_score"] = round(seconds, 2)
    if applied.trained:
        told["after_recovery"] = _recovered(bench, model, applied, folder, effort.recovery_seconds)
    return told, files


def times(run: Run, timed: dict[str, Timed], seconds: float) -> dict[str, float]:
    """How many times faster than the dense model each file is, by its name."""
    comparison = compare(
        {name: each.delivered.file for name, each in timed.items()},
        run.dense.timed_inputs(),
        own_inputs={name: each.origin.timed_inputs() for name, each in timed.items() if each.origin},
        threads=run.threads,
        seconds=seconds,
    )
    return {name: round(comparison.speedup("dense", name), 3) for name in timed}


def _delivered(bench: Bench, model: PreTrainedModel, applied: Applied, folder: Path) -> dict[str, Delivered]:
    plain, (alone, on_int8) = Recipe(steps=applied.steps), FORMS
    forms = {alone: plain}
    if not any(isinstance(step, Quantize) for step in applied.steps):
        forms[on_int8] = plain.then(Quantize())
    origin = applied.origin or bench.run.dense
    return {name: deliver(bench.run, model, form, folder / name, origin) for name, form in forms.items()}


def _recovered(
    bench: Bench, model: PreTrainedModel, applied: Applied, folder: Path, limit: float
) -> dict[str, Any]:
    """Metrics after a short distillation from the dense model."""
    run = bench.run
    began = time.monotonic()
    rate = learning_rate(run, model, bench.anatomy.model)
    _, fitted = recovered(run, model, trial_options(run, rate, limit), stage="recover")
    seconds = time.monotonic() - began
    files = _delivered(bench, model, applied, folder / "recovered")
    metrics = {name: round(each.metric, 4) for name, each in files.items()}
    return metrics | {"seconds": round(seconds, 1), "kept": fitted is not None}


def table(task: str, measured: dict[str, Any]) -> str:
    """Markdown of a task's results: metric, size and speed of each form, and the metric after recovery."""
    dense, int8 = measured["dense"], measured["int8"]
    lines = [
        f"| {task} | {measured['metric']} | smaller | faster | after recovery |",
        "|---|---|---|---|---|",
        f"| dense | {dense['metric']:.4f} | 1.00x | 1.00x | |",
        f"| int8 | {int8['metric']:.4f} | {int8['size_reduction']:.2f}x | {int8['speedup']:.2f}x | |",
    ]
    for label, told in measured["approximations"].items():
        for form, name in ((FORMS[0], label), (FORMS[1], "the same, int8")):
            if form not in told:
                continue
            each, after = told[form], told.get("after_recovery", {}).get(form)
            lines.append(
                f"| {name} | {each['metric']:.4f} | {each['size_reduction']:.2f}x | {each['speedup']:.2f}x "
                f"| {'' if after is None else f'{after:.4f}'} |"
            )
    return "\n".join(lines)


def _told(each: Delivered, dense: Delivered) -> dict[str, Any]:
    return {
        "metric": round(each.metric, 4),
        "bytes": each.size_bytes,
        "size_reduction": round(dense.size_bytes / each.size_bytes, 3),
    }


if __name__ == "__main__":
    main()
