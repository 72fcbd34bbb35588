"""`make bench-export`: seconds and memory that slicing MiniLM and each of its exports take.

    python -m bench.export [--only STEP ...] [--dry]

Every step runs in a process of its own, on a recipe that prunes heads and channels of every layer. Memory
is the highest resident size during the step, less that of the process before the model was loaded, over the
bytes of the dense model's fp32 weights; the loaded model itself, which is part of it, is 1.
Written to bench/results/export.json (with --dry or --only: out/bench-dry); exits 1 where a job's usual
exports together miss a target.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.main import ROOT, base_model
from bench.record import dry, machine, record
from worker.engine.measure.machine import usable_processors

RESULTS = ROOT / "bench" / "results" / "export.json"
MOST_SECONDS = 20.0
MOST_MEMORY = 3.0  # times the dense model's fp32 weights
LABELS = 30
SEED = 0
JOB = "slice, safetensors, onnx int8"


def main() -> int:
    """Measure every step in turn; 1 if the usual exports miss a target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--step", choices=tuple(steps()), help="do one step in this process")
    parser.add_argument("--only", nargs="+", choices=tuple(steps()), default=list(steps()))
    parser.add_argument("--dry", action="store_true", help="keep the numbers out of bench/results")
    arguments = parser.parse_args()
    if arguments.step is not None:
        print(json.dumps(measured(steps()[arguments.step])))
        return 0
    results = dry(RESULTS) if arguments.dry or arguments.only != list(steps()) else RESULTS
    found: dict[str, Any] = {}
    for step in arguments.only:
        command = [sys.executable, "-m", "bench.export", "--step", step]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        found[step] = json.loads(answer.stdout.splitlines()[-1])
        print(f"{step:32} {found[step]}", flush=True)
    record("machine", machine() | {"threads": usable_processors(), "seed": SEED}, results)
    record("targets", {"seconds": MOST_SECONDS, "memory": MOST_MEMORY, "of": JOB}, results)
    record("steps", found, results)
    missed = [
        step
        for step in found
        if step == JOB and (found[step]["seconds"] >= MOST_SECONDS or found[step]["memory"] >= MOST_MEMORY)
    ]
    return 1 if missed else 0


def steps() -> Mapping[str, Callable[[Any, Any, Path], None]]:
    """What is measured, by name: each takes the dense model, its tokenizer and a folder."""
    return {
        "slice": lambda model, tokenizer, folder: None,
        "safetensors": _safetensors,
        "onnx fp32": _onnx(),
        "onnx int8": _onnx(weights="int8"),
        "onnx int8, word embeddings int4": _onnx(weights="int8", embeddings="int4"),
        "onnx int4": _onnx(weights="int4", embeddings="int4"),
        "torch_export": _program,
        JOB: _usual,
    }


def measured(step: Callable[[Any, Any, Path], None]) -> dict[str, float]:
    """Slice MiniLM and do the step; seconds, and the most memory in dense models."""
    # Whatever is imported late would count as the step's. This module has every node told of.
    import onnxruntime.quantization.matmul_nbits_quantizer  # noqa: F401

    logging.root.setLevel(logging.WARNING)

    from models.spec import PruneHeads, PruneWeightGroups, Recipe
    from worker.engine.anatomy import anatomy_of
    from worker.engine.anatomy.slicing import sliced
    from worker.engine.export import torch_program  # noqa: F401
    from worker.engine.prepare import load_model, load_tokenizer
    from worker.engine.tasks import TASKS

    tokenizer = load_tokenizer(base_model())
    before = _resident("VmRSS")
    labels = [str(label) for label in range(LABELS)]
    model, _ = load_model(base_model(), TASKS["text-classification"], labels=labels, seed=SEED)
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident size begins anew
    anatomy = anatomy_of(model)
    recipe = Recipe(
        steps=tuple(
            each
            for layer in range(anatomy.layers)
            for each in (
                PruneHeads(layer=layer, heads=(0, 1)),
                PruneWeightGroups(layer=layer, channels=tuple(range(anatomy.channels // 4))),
            )
        )
    )
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as folder:
        began = time.perf_counter()
        small = sliced(model, anatomy.shape(recipe))
        del model, anatomy  # whoever exports needs the dense model no more
        step(small, tokenizer, Path(folder))
        seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 2),
        "memory": round((_resident("VmHWM") - before) / weights, 2),
        "memory_mib": round((_resident("VmHWM") - before) / 2**20),
    }


def _safetensors(model: Any, tokenizer: Any, folder: Path) -> None:
    from worker.engine.export.safetensors import save_folder

    save_folder(model, tokenizer, folder / "safetensors")


def _onnx(**form: Any) -> Callable[[Any, Any, Path], None]:
    def write(model: Any, tokenizer: Any, folder: Path) -> None:
        from models.spec import Quantize
        from worker.engine.export.onnx import save_onnx_folder

        quantize = Quantize(**form) if form else None
        save_onnx_folder(model, tokenizer, folder / "onnx", quantize=quantize, max_length=128)

    return write


def _program(model: Any, tokenizer: Any, folder: Path) -> None:
    from worker.engine.export.torch_program import save_program_folder

    save_program_folder(model, tokenizer, folder / "torch_export", max_length=128)


def _usual(model: Any, tokenizer: Any, folder: Path) -> None:
    _safetensors(model, tokenizer, folder)
    _onnx(weights="int8")(model, tokenizer, folder)


def _resident(field: str) -> int:
    """Bytes, of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) * 1024


if __name__ == "__main__":
    sys.exit(main())
