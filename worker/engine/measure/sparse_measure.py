"""Times layers with sparse heads beside the same layers with soft ones, on the target."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from worker.engine.approximations.sparse_heads import SparseKind
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.latency import Comparison
from worker.engine.measure.latency_table import Dimensions
from worker.engine.measure.probing import ModelFile, probe
from worker.engine.measure.sparse_costs import SparseCosts
from worker.engine.measure.table_fit import Stack
from worker.engine.measure.table_measure import beside, stack_file, table_key
from worker.engine.workspace import read_json, write_json

DEPTH = 3  # layers of a stack, as in the latency table's


def sparse_costs(
    dense: ModelFile,
    inputs: BenchInputs,
    dimensions: Dimensions,
    kinds: Sequence[SparseKind],
    *,
    top_k: int,
    whole_ms: float,
    threads: int,
    delivered: ModelFile | None = None,
    quantized: bool = False,
    cache: Path | None = None,
    seconds_per_stack: float = 1.2,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> SparseCosts:
    """Measure, or read back from the folder `cache`, what heads of `kinds` add to a layer.

    `whole_ms` is what the latency table predicts for the whole model in the delivered precision, in whose
    milliseconds the answer is. The other arguments are those of `latency_table`. Raises MeasurementError.
    """
    whole = delivered or dense
    counts = tuple(sorted({1, dimensions.heads}))
    sparse = [_with(dimensions, kind, count, top_k) for kind in kinds for count in counts]
    variants = [variant for each in sparse for variant in each.layer_variants]
    key = table_key(dense, whole, inputs, replace(dimensions, layer_variants=variants), threads)
    file = None if cache is None else cache / f"sparse-{key}.json"
    if file is not None and (stored := read_json(file)) is not None:
        return SparseCosts.from_json(stored).scaled(whole_ms)
    last = dense.runtime == "onnxruntime" and dimensions.first_token_only
    parts: dict[SparseKind, dict[str, tuple[float, ...]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="axforge-sparse-")))
        reference = stack.enter_context(probe(whole, inputs, threads=threads))
        for step, kind in enumerate(kinds):
            on_step(step, len(kinds))
            models = _models(
                folder / kind, dense, dimensions, kind, counts, top_k, last=last, quantized=quantized
            )
            comparison = beside(reference, models, inputs, threads, seconds_per_stack * len(models))
            parts[kind] = _added(comparison, counts, last=last)
    measured = SparseCosts(
        counts,
        {kind: added["inner"] for kind, added in parts.items()},
        {kind: added["last"] for kind, added in parts.items()},
    )
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(measured))
    return measured.scaled(whole_ms)


def _models(
    folder: Path,
    dense: ModelFile,
    dimensions: Dimensions,
    kind: SparseKind,
    counts: Sequence[int],
    top_k: int,
    *,
    last: bool,
    quantized: bool,
) -> dict[str, ModelFile]:
    """Stacks of layers with no sparse head and with each count of them, and single last layers."""
    folder.mkdir()
    channels = max(1, dimensions.channels // 2)
    stacks = {"inner": Stack(DEPTH, dimensions.heads, channels)}
    if last:
        stacks["last"] = Stack(1, dimensions.heads, channels, last=True)
    return {
        f"{place}-{count}": stack_file(
            folder / f"{place}-{count}",
            stack,
            dense,
            _with(dimensions, kind, count, top_k) if count else dimensions,
            quantized,
        )
        for place, stack in stacks.items()
        for count in (0, *counts)
    }


def _with(dimensions: Dimensions, kind: SparseKind, count: int, top_k: int) -> Dimensions:
    """The same with so many sparse heads in every layer."""
    sparse = [{"kind": kind, "top_k": top_k, "heads": list(range(count))}]
    variants = [{**variant, "sparse": sparse} for variant in dimensions.layer_variants]
    return replace(dimensions, layer_variants=variants)


def _added(comparison: Comparison, counts: Sequence[int], *, last: bool) -> dict[str, tuple[float, ...]]:
    """Parts of the whole model's time that a layer takes longer with each count of sparse heads.

    Sparse heads do all that soft ones do and more, so that a layer never gains by them: less than nothing is
    the clock's doing.
    """

    def part(name: str) -> float:
        return 1.0 / comparison.speedup("whole", name)

    def of(place: str, depth: int) -> tuple[float, ...]:
        soft = part(f"{place}-0")
        return tuple(max(0.0, (part(f"{place}-{count}") - soft) / depth) for count in counts)

    inner = of("inner", DEPTH)
    return {"inner": inner, "last": of("last", 1) if last else inner}
