"""Times the stacks of a latency table on the target, each in its own process, against the dense model."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from worker.engine.measure import machine
from worker.engine.measure.files import loaded_bytes
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.latency import Comparison, compare_running
from worker.engine.measure.latency_table import Dimensions, LatencyTable
from worker.engine.measure.probing import ModelFile, Probe, probe
from worker.engine.measure.table_fit import Stack, fit, planned_stacks

ROUNDS = 5
VERSION = 1  # of the method: tables measured in another way are not read back


def latency_table(
    dense: ModelFile,
    inputs: BenchInputs,
    dimensions: Dimensions,
    *,
    threads: int,
    delivered: ModelFile | None = None,
    quantized: bool = False,
    cache: Path | None = None,
    seconds_per_stack: float = 1.5,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> LatencyTable:
    """Measure, or read back from the folder `cache`, the table of one target.

    `dense` is the exported dense fp32 model. `delivered` is the whole model at the precision that
    will be delivered (its int8 export where `quantized`), None when that is `dense` itself; the
    table predicts its time exactly. `on_step(step, total)` is called before every stack and may
    raise to stop. Raises MeasurementError.
    """
    whole = delivered or dense
    file = (
        None if cache is None else cache / f"latency-{_key(dense, whole, inputs, dimensions, threads)}.json"
    )
    if file is not None and file.is_file():
        return LatencyTable.from_json(json.loads(file.read_text(encoding="utf-8")))
    table = _measured(dense, whole, inputs, dimensions, threads, quantized, seconds_per_stack, on_step)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(table.to_json()), encoding="utf-8")
        partial.replace(file)
    return table


def _measured(
    dense: ModelFile,
    whole: ModelFile,
    inputs: BenchInputs,
    dimensions: Dimensions,
    threads: int,
    quantized: bool,
    seconds: float,
    on_step: Callable[[int, int], None],
) -> LatencyTable:
    planned = planned_stacks(dimensions.heads, dimensions.channels)
    total = len(planned) + 1
    with (
        tempfile.TemporaryDirectory(prefix="axforge-table-") as folder,
        probe(dense, inputs, threads=threads) as reference,
    ):

        def against_dense(model: ModelFile, step: int) -> Comparison:
            on_step(step, total)
            with probe(model, inputs, threads=threads) as other:
                return _compared(reference, other, inputs, seconds)

        comparisons = []
        for number, stack in enumerate(planned):
            model = _stack_file(Path(folder) / f"stack-{number}", stack, dense, dimensions, quantized)
            comparisons.append(against_dense(model, number))
            model.path.unlink()
        whole_timed = against_dense(whole, len(planned))
    return _table(planned, comparisons, whole_timed, dimensions)


def _compared(reference: Probe, other: Probe, inputs: BenchInputs, seconds: float) -> Comparison:
    running = {"dense": reference, "model": other}
    return compare_running(running, inputs, rounds=ROUNDS, warmup=5, seconds=seconds)


def _table(
    planned: Sequence[Stack],
    comparisons: Sequence[Comparison],
    whole_timed: Comparison,
    dimensions: Dimensions,
) -> LatencyTable:
    """Every time is a ratio to the dense model in the same turns, times the dense model's usual time."""
    dense_ms = float(np.median([timed["dense"].mean for timed in (*comparisons, whole_timed)]))
    costs = fit(
        [
            replace(stack, ms=dense_ms / timed.speedup("dense", "model"))
            for stack, timed in zip(planned, comparisons, strict=True)
        ]
    )
    whole_ms = dense_ms / whole_timed.speedup("dense", "model")
    layers_ms = dimensions.layers * (costs.attention_ms[-1] + costs.ffn_ms[-1])
    scale = min(1.0, whole_ms / layers_ms)  # stacks must not cost more than the model they are part of
    whole = whole_timed["model"]
    return LatencyTable(
        head_counts=costs.head_counts,
        attention_ms=tuple(scale * ms for ms in costs.attention_ms),
        channel_counts=costs.channel_counts,
        ffn_ms=tuple(scale * ms for ms in costs.ffn_ms),
        fixed_ms=whole_ms - scale * layers_ms,
        dense_ms=dense_ms,
        p50_over_mean=whole.p50 / whole.mean,
        p95_over_mean=whole.p95 / whole.mean,
    )


def _stack_file(
    path: Path, stack: Stack, dense: ModelFile, dimensions: Dimensions, quantized: bool
) -> ModelFile:
    layers = [(stack.heads, stack.channels)] * stack.depth
    hidden, head = dimensions.hidden_size, dimensions.head_size
    if dense.runtime == "torch":
        from worker.engine.measure.torch_layers import write_stack

        write_stack(path, hidden_size=hidden, head_size=head, layers=layers)
        return ModelFile(path, "torch-layers", dense.device)
    from worker.engine.export.onnx import layer_stack_onnx

    layer_stack_onnx(path, hidden_size=hidden, head_size=head, layers=layers, quantized=quantized)
    return ModelFile(path, "onnxruntime", dense.device)


def _key(
    dense: ModelFile, whole: ModelFile, inputs: BenchInputs, dimensions: Dimensions, threads: int
) -> str:
    """Of all that a table depends on: dimensions, files' sizes, runtime, lengths, machine, versions."""
    host = machine.describe(dense.device, threads=threads)
    document = {
        "version": VERSION,
        "dimensions": asdict(dimensions),
        "bytes": [loaded_bytes(dense), loaded_bytes(whole)],
        "runtime": [dense.runtime, dense.device, threads],
        "inputs": inputs.digest(),
        "machine": [host.device, host.versions],
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]
