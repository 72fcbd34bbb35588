"""Latency by length and batch size: both models in turns, cell by cell, for as long as there is time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.latency import compare_running
from worker.engine.measure.probing import ModelFile, Probe, Turn, probe

CALLS = 4  # different batches of a cell
WARMUP = 2
LEAST_SECONDS = 0.45  # of a cell: three rounds of a turn for each of two models
FEWEST_CALLS = 40  # of each model, that the shortest comparison of a cell takes
BATCH_SIZES = (1, 8, 32)
LENGTHS = 4  # the longest that the model is given, and its halves
Cell = tuple[int, int]
"""(tokens of an example, examples of a call)"""


@dataclass(frozen=True)
class CellTime:
    """Milliseconds a call of each model in its fastest round."""

    dense: float
    optimized: float


@dataclass(frozen=True)
class Grid:
    """`not_measured` are the cells that would have gone beyond the time, `seconds` what the others took."""

    cells: Mapping[Cell, CellTime]
    not_measured: tuple[Cell, ...]
    seconds: float


def planned_cells(longest: int, batch_size: int) -> list[Cell]:
    """A few lengths up to `longest` with a few batch sizes, the target's among them; the cheapest first."""
    lengths = sorted({max(4, longest >> halved) for halved in range(LENGTHS)})
    batches = sorted({*BATCH_SIZES, batch_size})
    return sorted(
        ((length, batch) for length in lengths for batch in batches),
        key=lambda cell: (cell[0] * cell[1], cell),
    )


def latency_grid(
    models: Mapping[str, ModelFile],
    inputs: Mapping[str, Callable[[Cell], BenchInputs]],
    cells: Sequence[Cell],
    *,
    threads: int,
    seconds: float,
    on_cell: Callable[[int], None] = lambda number: None,
    clock: Callable[[], float] = time.monotonic,
) -> Grid:
    """Time the models "dense" and "optimized" on every cell, within about `seconds`.

    `inputs` makes a model's batches of a cell. Each model is loaded once. A cell is left out, and with it all
    that cost more, when its shortest comparison would take longer than what is left, by the time of the
    cell before. `on_cell` is called before each and may raise to stop. Raises MeasurementError.
    """
    if seconds <= 0 or not cells:
        return Grid({}, tuple(cells), 0.0)
    parts = {name: [make(cell) for cell in cells] for name, make in inputs.items()}
    began = clock()
    taken: dict[Cell, CellTime] = {}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(probe(file, _joined(parts[name]), threads=threads))
            for name, file in models.items()
        }
        deadline = clock() + seconds
        for number, cell in enumerate(cells):
            left = deadline - clock()
            if left <= 0 or _least_seconds(taken, cell) > left:
                return Grid(taken, tuple(cells[number:]), clock() - began)
            on_cell(number)
            beside = {name: _Part(each, number * CALLS) for name, each in running.items()}
            share = max(LEAST_SECONDS, left / (len(cells) - number))
            comparison = compare_running(beside, parts["dense"][number], warmup=WARMUP, seconds=share)
            taken[cell] = CellTime(comparison["dense"].fastest, comparison["optimized"].fastest)
    return Grid(taken, (), clock() - began)


def _least_seconds(taken: Mapping[Cell, CellTime], cell: Cell) -> float:
    """What the shortest comparison of a cell takes, if calls cost what they hold in tokens."""
    if not taken:
        return 0.0
    known, times = list(taken.items())[-1]
    growth: float = cell[0] * cell[1] / (known[0] * known[1])
    return FEWEST_CALLS * growth * (times.dense + times.optimized) / 1000.0


@dataclass(frozen=True)
class _Part:
    """The calls of a running probe from `first` on."""

    whole: Probe
    first: int

    def timed(self, *, calls: int, repeats: int = 1, warmup: int = 0) -> Turn:
        return self.whole.timed(calls=calls, repeats=repeats, warmup=warmup, first=self.first)


def _joined(parts: Sequence[BenchInputs]) -> BenchInputs:
    """All batches of some inputs after each other."""
    ids = tuple(row for part in parts for row in part.ids)
    types = tuple(row for part in parts for row in part.token_types or ())
    starts, before = [0], 0
    for part in parts:
        starts += [before + start for start in part.starts[1:]]
        before += part.rows
    head = parts[0]
    return BenchInputs(ids, tuple(starts), head.pad_id, types or None, head.choices)
