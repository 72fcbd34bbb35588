"""Models beside each other on the clock: a process each, in turns, a ratio a round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.probing import ModelFile, Turn, probe

Milliseconds = npt.NDArray[np.float64]
MIN_ROUNDS = 3
TURN_SECONDS = 0.15  # of one model in one round: short, so that some turns fall between disturbances
PATIENCE = 2.0  # times the seconds asked for, in which a comparison ends whatever a turn's surroundings cost
QUIET = 0.08  # seconds that an undisturbed model's threads wait for a processor, for each second
MIN_PASSES = 3  # the fewest whose median is not moved by one disturbed pass


class Timed(Protocol):
    """What takes turns: a probe, or some of a probe's calls."""

    def timed(self, *, calls: int, repeats: int = 1, warmup: int = 0) -> Turn:
        """See `Probe.timed`."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one model's calls, [rounds, passes, calls], and the rows of one pass.

    A round's time is that of one pass, each call at its median over the round's passes. Whatever else a
    machine does only ever adds to a time, often for many seconds on end, so a model's own time is that of its
    fastest round (Chen and Revels 2016, "Robust benchmarking in noisy environments"). The percentiles
    are over all calls, disturbances included.
    """

    calls_ms: Milliseconds
    examples: int

    @property
    def p50(self) -> float:
        return float(np.percentile(self.calls_ms, 50))

    @property
    def p95(self) -> float:
        return float(np.percentile(self.calls_ms, 95))

    @property
    def round_ms(self) -> Milliseconds:
        """Milliseconds of a pass, [rounds]."""
        return np.asarray(np.median(self.calls_ms, axis=1).sum(axis=1))

    @property
    def fastest(self) -> float:
        """Milliseconds per call in the fastest round."""
        return float(self.round_ms.min() / self.calls_ms.shape[2])

    @property
    def throughput(self) -> float:
        """Examples per second in the fastest round."""
        return float(1000.0 * self.examples / self.round_ms.min())


@dataclass(frozen=True)
class Comparison:
    """Timings of the same calls by several models, taken in the same rounds.

    `waited`: how long the models' threads waited for a processor that other processes had, for each
    second of the median round; near 0 on a quiet machine, and ratios mean little where it is large.
    """

    timings: Mapping[str, Timing]
    waited: float = 0.0

    def __getitem__(self, name: str) -> Timing:
        return self.timings[name]

    def speedup(self, reference: str, name: str) -> float:
        """Time of `reference` over time of `name`, each in its fastest round: above 1, `name` is faster."""
        return self.timings[reference].fastest / self.timings[name].fastest

    def median_speedup(self, reference: str, name: str) -> float:
        """The same, as the median over the rounds of the ratio within the round."""
        return float(np.median(self.ratios(reference, name)))

    def spread(self, reference: str, name: str) -> float:
        """Largest minus smallest ratio of a round, over the median ratio."""
        ratios = self.ratios(reference, name)
        return float(np.ptp(ratios) / np.median(ratios))

    def ratios(self, reference: str, name: str) -> Milliseconds:
        """Time of `reference` over time of `name` in each round, [rounds]."""
        return self.timings[reference].round_ms / self.timings[name].round_ms


def compare(
    models: Mapping[str, ModelFile],
    inputs: BenchInputs,
    *,
    threads: int,
    own_inputs: Mapping[str, BenchInputs] | None = None,
    warmup: int = 5,
    seconds: float = 14.0,
    on_round: Callable[[], None] = lambda: None,
) -> Comparison:
    """Time `models` on the same calls, taking turns of whole passes, for about `seconds`.

    `own_inputs` are of the models, by name, whose tokenizer cuts the same rows otherwise. Each model has
    its own process and only one computes at a time; the order of the turns is reversed every other round.
    `warmup` calls at the start of a turn are not counted. `on_round` is called before every round and may
    raise to stop. Raises MeasurementError.
    """
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(probe(model, (own_inputs or {}).get(name, inputs), threads=threads))
            for name, model in models.items()
        }
        return compare_running(running, inputs, warmup=warmup, seconds=seconds, on_round=on_round)


def compare_running(
    running: Mapping[str, Timed],
    inputs: BenchInputs,
    *,
    warmup: int,
    seconds: float,
    on_round: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Comparison:
    """As `compare`, for probes that are already running on `inputs`."""
    rounds = max(MIN_ROUNDS, round(seconds / (TURN_SECONDS * len(running))))
    deadline = clock() + PATIENCE * seconds
    calls, repeats = _affordable(running, inputs, seconds / rounds, warmup)
    taken: list[dict[str, Turn]] = []
    names = list(running)
    while len(taken) < rounds and (len(taken) < MIN_ROUNDS or clock() < deadline):
        on_round()
        order = names if len(taken) % 2 == 0 else names[::-1]
        taken.append(
            {name: running[name].timed(calls=calls, repeats=repeats, warmup=warmup) for name in order}
        )
    examples = inputs.examples_in(calls)
    timings = {name: Timing(np.stack([turns[name].ms for turns in taken]), examples) for name in names}
    waited = [max(turn.waited for turn in turns.values()) for turns in taken]
    return Comparison(timings, float(np.median(waited)))


def _affordable(
    running: Mapping[str, Timed], inputs: BenchInputs, round_seconds: float, warmup: int
) -> tuple[int, int]:
    """(calls of a pass, passes of a turn) that fill a round; calls are left out to have enough passes."""
    tried = min(8, inputs.calls)
    spent = 0.0
    for model in running.values():
        spent += float(np.median(model.timed(calls=tried, repeats=2, warmup=warmup).ms))
    affordable = math.floor(round_seconds * 1000.0 / spent)  # calls of every model in a round
    calls = min(inputs.calls, max(tried, affordable // MIN_PASSES))
    return calls, max(MIN_PASSES, affordable // calls)
