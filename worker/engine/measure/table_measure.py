"""Times the stacks of a latency table on the target, each in its own process, against the dense model."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from worker.engine.anatomy.shape import LayerShape
from worker.engine.measure import machine
from worker.engine.measure.files import loaded_bytes
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.latency import Comparison, compare_running
from worker.engine.measure.latency_table import Dimensions, LatencyTable, NarrowCosts
from worker.engine.measure.layer_size import LayerSize, SizedStack, fit_layer_size
from worker.engine.measure.probing import ModelFile, Probe, probe
from worker.engine.measure.table_fit import Stack, anchored, fit, narrow_stacks, planned_stacks
from worker.engine.workspace import read_json, write_json

SHALLOW = "shallow"
WARMUP = 5
GROUP = 4  # models timed in turns with the whole one: its turns are shared, memory stays bounded
VERSION = 5  # of the method: tables measured in another way are not read back


def latency_table(
    dense: ModelFile,
    inputs: BenchInputs,
    dimensions: Dimensions,
    *,
    threads: int,
    delivered: ModelFile | None = None,
    shallow: Callable[[Path], ModelFile] | None = None,
    quantized: bool = False,
    cache: Path | None = None,
    seconds_per_stack: float = 1.2,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> LatencyTable:
    """Measure, or read back from the folder `cache`, the table of one target.

    `dense` is the exported dense fp32 model. `delivered` is the whole model at the precision that
    will be delivered (its int8 export where `quantized`), None when that is `dense` itself; the
    table predicts its time exactly. `shallow` writes that model with its last layer alone into a folder, and
    the table predicts its time as well. `on_step(step, total)` is called before every group of stacks and may
    raise to stop. Raises MeasurementError.
    """
    whole = delivered or dense
    key = table_key(dense, whole, inputs, dimensions, threads, shallow=shallow is not None)
    file = None if cache is None else cache / f"latency-{key}.json"
    if file is not None and (stored := read_json(file)) is not None:
        return LatencyTable.from_json(stored)
    table = _measured(
        dense, whole, shallow, inputs, dimensions, threads, quantized, seconds_per_stack, on_step
    )
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, table.to_json())
    return table


def _measured(
    dense: ModelFile,
    whole: ModelFile,
    shallow: Callable[[Path], ModelFile] | None,
    inputs: BenchInputs,
    dimensions: Dimensions,
    threads: int,
    quantized: bool,
    seconds: float,
    on_step: Callable[[int, int], None],
) -> LatencyTable:
    last = dense.runtime == "onnxruntime" and dimensions.first_token_only
    planned = planned_stacks(dimensions.heads, dimensions.channels, last=last)
    if dimensions.narrower:
        planned += narrow_stacks(dimensions.heads, dimensions.channels, dimensions.narrow_size)
    timed: dict[str, Comparison] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="axforge-table-")))
        # Stacks are of the delivered precision, and so is what they are compared with: what disturbs
        # one then disturbs the other as much.
        reference = stack.enter_context(probe(whole, inputs, threads=threads))
        models = {"dense": dense} | ({} if shallow is None else {SHALLOW: shallow(folder / SHALLOW)})
        models |= {
            f"stack-{number}": stack_file(folder / f"stack-{number}", stack, dense, dimensions, quantized)
            for number, stack in enumerate(planned)
        }
        for step, names in enumerate(_grouped(list(models))):
            on_step(step, -(-len(models) // GROUP))
            group = {name: models[name] for name in names}
            comparison = beside(reference, group, inputs, threads, seconds * len(group))
            timed |= dict.fromkeys(names, comparison)
        layer_size = _layer_size(planned, models)
    return _table(planned, timed, dimensions, layer_size)


def _grouped(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + GROUP] for start in range(0, len(names), GROUP))


def beside(
    whole: Probe, group: Mapping[str, ModelFile], inputs: BenchInputs, threads: int, seconds: float
) -> Comparison:
    """A group of models and "whole", which is running already, on the clock."""
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(probe(model, inputs, threads=threads)) for name, model in group.items()
        }
        return compare_running({"whole": whole, **running}, inputs, warmup=WARMUP, seconds=seconds)


def _table(
    planned: Sequence[Stack],
    timed: Mapping[str, Comparison],
    dimensions: Dimensions,
    layer_size: LayerSize | None,
) -> LatencyTable:
    """Every time is a ratio to the whole model in the same turns, times what that takes at its fastest."""
    whole_ms = min(comparison["whole"].fastest for comparison in timed.values())

    def ms(name: str) -> float:
        return whole_ms / timed[name].speedup("whole", name)

    stacks = [replace(stack, ms=ms(f"stack-{number}")) for number, stack in enumerate(planned)]
    inner, last = fit([stack for stack in stacks if stack.hidden is None])
    narrow = _narrow_costs([stack for stack in stacks if stack.hidden is not None], dimensions)
    full = LayerShape(tuple(range(dimensions.heads)), tuple(range(dimensions.channels)))
    scale, fixed = anchored(
        whole_ms,
        ms(SHALLOW) if SHALLOW in timed else None,
        (dimensions.layers - 1) * inner.layer_ms(full),
        last.layer_ms(full),
    )
    whole = timed["dense"]["whole"]
    return LatencyTable(
        inner=inner.scaled(scale),
        last=last.scaled(scale),
        fixed_ms=fixed,
        dense_ms=ms("dense"),
        p50_over_mean=whole.p50 / whole.fastest,
        p95_over_mean=whole.p95 / whole.fastest,
        narrow=None if narrow is None else narrow.scaled(scale),
        layer_size=layer_size,
    )


def _narrow_costs(stacks: Sequence[Stack], dimensions: Dimensions) -> NarrowCosts | None:
    if not stacks:
        return None
    return NarrowCosts(dimensions.hidden_size, dimensions.narrow_size, fit(stacks)[0])


def _layer_size(planned: Sequence[Stack], models: Mapping[str, ModelFile]) -> LayerSize | None:
    """What a layer adds to the delivered file; None where stacks are described and not written (torch)."""
    stacks = [
        SizedStack(stack.depth, stack.heads, stack.channels, loaded_bytes(models[f"stack-{number}"]))
        for number, stack in enumerate(planned)
        if models[f"stack-{number}"].runtime == "onnxruntime" and not stack.last and stack.hidden is None
    ]
    return fit_layer_size(stacks) if stacks else None


def stack_file(
    path: Path, stack: Stack, dense: ModelFile, dimensions: Dimensions, quantized: bool
) -> ModelFile:
    """Write a stack of layers in the form and runtime of `dense`."""
    layers = [(stack.heads, stack.channels)] * stack.depth
    described: dict[str, Any] = {
        "hidden_size": stack.hidden or dimensions.hidden_size,
        "head_size": dimensions.head_size,
        "layers": layers,
        "form": dimensions.form,
        "layer_variants": dimensions.layer_variants,
    }
    if dense.runtime == "torch":
        from worker.engine.measure.torch_layers import write_stack

        write_stack(path, described, quantized=quantized)
        return ModelFile(path, "torch-layers", dense.device)
    from worker.engine.export.onnx import layer_stack_onnx

    layer_stack_onnx(path, **described, quantized=quantized, first_token_only=stack.last)
    return ModelFile(path, "onnxruntime", dense.device)


def table_key(
    dense: ModelFile,
    whole: ModelFile,
    inputs: BenchInputs,
    dimensions: Dimensions,
    threads: int,
    *,
    shallow: bool = False,
) -> str:
    """Of all that a table depends on: dimensions, files' sizes, runtime, lengths, machine, versions."""
    host = machine.describe(dense.device, threads=threads)
    document = {
        "version": VERSION,
        "dimensions": asdict(dimensions),
        "shallow": shallow,
        "bytes": [loaded_bytes(dense), loaded_bytes(whole)],
        "runtime": [dense.runtime, dense.device, threads],
        "inputs": inputs.digest(),
        "machine": [host.device, host.versions],
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]
