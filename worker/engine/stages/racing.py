"""Races: a change of the model against the recipe so far, given up as soon as it cannot win any more."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from worker.engine.anatomy import Anatomy, Shape
from worker.engine.device import Device
from worker.engine.significance import prefix
from worker.engine.significance.base import Tally
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.significance.sequential import SumBelowZero, looking_order
from worker.engine.strategies.base import Abandoned, Bar, Judgement
from worker.engine.tasks import Split, Task

HARDEST = 0.125  # of the rows, on which the start does worst: they come first
CHUNKS = (0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0)  # of the rows: where one looks whether to go on
Answers = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Losses and logits of a chunk."""


class Race:
    """Judgements of shapes on the rows of `split`, in fp32, from hidden states of what was judged before.

    `start` is the shape of which every accepted change has to do no worse on more than half of the rows.
    What a change gives is kept while it is judged: if it is the next rival, nothing is computed again.
    The rows are cut into chunks: those hardest for the start, then the others in an order drawn by
    `seed`. Losses are those at `temperature`. With an `error_rate` of 0 changes are given up only where no
    row that is left could save them.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        split: Split,
        task: Task,
        device: Device,
        *,
        start: Shape,
        metric: str,
        error_rate: float,
        seed: int,
        temperature: float = 1.0,
    ) -> None:
        self._anatomy = anatomy
        self._split = split
        self._task = task
        self._device = device
        self._metric = metric
        self._error_rate = error_rate
        self._seed = seed
        self._temperature = temperature
        self._start = start.normalised()
        self._rival: tuple[Shape, NDArray[np.float32]] | None = None
        self._known: tuple[Shape, NDArray[np.float32]] | None = None
        self.tally = Tally()

    def judge(self, shape: Shape) -> Judgement:
        """On all rows."""
        return self._judged(shape, [chunk.answers(shape) for chunk in self._chunks])

    def contest(self, rival: Shape, shape: Shape, bar: Bar) -> Judgement | Abandoned:
        """Judge `shape`, unless it turns out on fewer rows that it does not come below the bar.

        The bar is `ceiling` times the mean loss of `rival`, and, if `guarded`, that more than half of the
        rows do no worse than at the start.
        """
        before = self._losses_of_rival(rival)
        at_start = self._at_start if bar.guarded else before
        tests = self._tests(before, bar)
        answers: list[Answers] = []
        for number, (chunk, rows) in enumerate(zip(self._chunks, self._rows, strict=True)):
            answers.append(chunk.answers(shape, may_rebase=True))
            values = self._values(answers[-1][0], before[rows], at_start[rows], bar)
            refuted = [test.add(each) for test, each in zip(tests, values, strict=True)]
            if any(refuted) and number + 1 < len(self._chunks):
                return Abandoned(sum(map(len, self._rows[: number + 1])), len(self._split))
        return self._judged(shape, answers)

    @cached_property
    def _order(self) -> tuple[NDArray[np.int64], int]:
        """The rows, those hardest for the start first, and how many these are."""
        replay = PrefixReplay(
            self._anatomy,
            self._split,
            self._task,
            self._device,
            precision="fp32",
            temperature=self._temperature,
            tally=self.tally,
            room=0,
        )
        return looking_order(replay.losses(self._start), hardest=HARDEST, seed=self._seed)

    @cached_property
    def _rows(self) -> list[NDArray[np.int64]]:
        """The rows of each chunk, in the order in which they are looked at."""
        order, fixed = self._order
        cuts = sorted({fixed, *(round(part * len(order)) for part in CHUNKS)} - {0})
        return np.split(order, cuts[:-1])

    @cached_property
    def _chunks(self) -> list[PrefixReplay]:
        room, chunks = prefix.CACHE_BYTES, []
        for rows in self._rows:
            chunk = PrefixReplay(
                self._anatomy,
                self._split.select(rows),
                self._task,
                self._device,
                precision="fp32",
                temperature=self._temperature,
                base=self._start,
                tally=self.tally,
                room=room,
            )
            room -= chunk.bytes if chunk.bytes <= room else 0
            chunks.append(chunk)
        return chunks

    @cached_property
    def _at_start(self) -> NDArray[np.float32]:
        """Losses of the start, from the same batches as those of all that is compared with it."""
        return self.judge(self._start).losses

    def _losses_of_rival(self, rival: Shape) -> NDArray[np.float32]:
        """Those of the recipe so far. Hidden states are kept for the one that was asked for last."""
        rival = rival.normalised()
        if self._rival is None or self._rival[0] != rival:
            if self._known is None or self._known[0] != rival:
                self.judge(rival)
            assert self._known is not None
            self._rival = self._known
            for chunk in self._chunks:
                chunk.rebase(rival)
        return self._rival[1]

    def _tests(self, before: NDArray[np.float32], bar: Bar) -> list[SumBelowZero]:
        order, fixed = np.concatenate(self._rows), self._order[1]
        floors = [-bar.ceiling * before[order].astype(np.float64)]
        if bar.guarded:
            floors.append(np.full(len(order), -self._most_worse))
        rate = self._error_rate / len(floors)
        return [SumBelowZero(each, fixed=fixed, error_rate=rate) for each in floors]

    @property
    def _most_worse(self) -> float:
        """The part of the rows of which fewer must do worse, so that more than half do no worse."""
        return 1.0 - (len(self._split) // 2) / len(self._split)

    def _values(
        self,
        losses: NDArray[np.float32],
        before: NDArray[np.float32],
        at_start: NDArray[np.float32],
        bar: Bar,
    ) -> list[NDArray[np.float64]]:
        """Of a chunk's rows, what each test sums."""
        change = losses.astype(np.float64) - bar.ceiling * before.astype(np.float64)
        worse = (losses > at_start).astype(np.float64) - self._most_worse
        return [change, worse] if bar.guarded else [change]

    def _judged(self, shape: Shape, answers: list[Answers]) -> Judgement:
        """What the chunks answered, put together."""
        split = self._split
        losses = np.empty(len(split), dtype=np.float32)
        rows = len(split.ids if split.by_token else split)
        logits = np.empty((rows, answers[0][1].shape[1]), dtype=np.float32)
        for chunk, (its_losses, its_logits) in zip(self._rows, answers, strict=True):
            losses[chunk] = its_losses
            logits[split.flat_positions(chunk) if split.by_token else chunk] = its_logits
        self._known = shape.normalised(), losses
        metric = self._task.score(self._metric, self._task.marks(logits, split))
        return Judgement(float(losses.mean(dtype=np.float64)), metric, losses)
