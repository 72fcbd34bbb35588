"""The loss without each element, in shares that any worker can do."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from worker.engine.crew import Outcome, Share
from worker.engine.run import Run
from worker.engine.significance.ablation import losses_without
from worker.engine.significance.elements import Element
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.significance.report import all_elements
from worker.engine.stages.problem import sample
from worker.engine.stages.sharing import shared

SHARES_A_WORKER = 4  # so that a worker that comes late, or is slower, still takes what it can do


class Weighing:
    """Mean losses on `rows` rows of the selection split, of the run's dense model without an element.

    The numbers do not depend on how the elements are cut into shares: each is computed by itself, from
    the same batches and the same hidden states.
    """

    def __init__(self, run: Run, rows: int) -> None:
        self._run = run
        self._rows = rows
        self._elements = {element.id: element for element in all_elements(run.origin.anatomy.full_shape())}
        self._done = 0

    def base_losses(self) -> np.ndarray:
        """Of the dense model, per sample, (rows,)."""
        return self._replay.losses(self._run.origin.anatomy.full_shape())

    def shares(self) -> list[Share]:
        """All elements, cut for the workers that the job allows.

        They are dealt out in turns: an element of a late layer costs less than one of an early layer.
        """
        names = list(self._elements)
        workers = self._run.spec.budget.max_workers
        count = 1 if workers == 1 else min(len(names), SHARES_A_WORKER * workers)
        return [{"elements": names[number::count], "rows": self._rows} for number in range(count)]

    def losses(self) -> dict[str, float]:
        """The mean loss without each element, by its id, done by the run's crew."""
        shares = self.shares()
        outcomes = shared(
            self._run,
            "analyse",
            shares,
            self.work,
            lambda number: self._tell(len(shares[number]["elements"])),
        )
        without = {name: float.fromhex(loss) for each in outcomes for name, loss in each.items()}
        return {name: without[name] for name in self._elements}

    def work(self, share: Share) -> Outcome:
        """The losses of a share, as hexadecimal floats: exact, and JSON whatever they are.

        Raises ValueError for a share on another number of rows.
        """
        if share["rows"] != self._rows:
            raise ValueError(f"the share is on {share['rows']} rows, this weighing on {self._rows}")
        elements: list[Element] = [self._elements[name] for name in share["elements"]]
        shape = self._run.origin.anatomy.full_shape()
        losses = losses_without(elements, shape, self._replay.losses, told=lambda _: self._tell(1))
        return {name: loss.hex() for name, loss in losses.items()}

    @cached_property
    def _replay(self) -> PrefixReplay:
        run = self._run
        rows = sample(run.selection, self._rows, run.spec.seed)
        return PrefixReplay(run.origin.anatomy, rows, run.task, run.device, precision="fast")

    def _tell(self, done: int) -> None:
        self._done += done
        self._run.progress("analyse", self._done, len(self._elements), "weighing elements")
