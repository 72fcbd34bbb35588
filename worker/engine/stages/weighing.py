"""The dense model's loss without each element, in shares that any worker can do."""

from __future__ import annotations

from dataclasses import astuple
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from worker.engine.crew import Outcome, Share
from worker.engine.run import Run
from worker.engine.significance.base import Tally
from worker.engine.significance.calibration import temperature
from worker.engine.significance.elements import Weighed
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.significance.report import Ablated
from worker.engine.significance.siblings import sibling_sets
from worker.engine.stages.problem import sample, weighed_elements
from worker.engine.stages.sharing import shared
from worker.engine.stages.sparse import tried_elements
from worker.engine.tasks import Split

SHARES_A_WORKER = 4  # so that a worker that comes late, or is slower, still takes what it can do


class Weighing:
    """What the run's dense model loses on `rows` rows of the selection split without an element.

    The numbers do not depend on how the elements are cut into shares: each set of siblings is computed by
    itself, from the same batches and the same hidden states.
    """

    def __init__(self, run: Run, rows: int) -> None:
        self._run = run
        self._rows = rows
        full = run.origin.anatomy.full_shape()
        elements: list[Weighed] = [*weighed_elements(run, full), *tried_elements(run)]
        self._elements = {element.id: element for element in elements}
        self._done = 0
        self._tally = Tally()
        self.token_layers = 0
        """Computed for all elements, here and by others."""

    @cached_property
    def base_losses(self) -> NDArray[np.float32]:
        """Of the dense model, per sample, (rows,)."""
        return self._replay.losses(self._run.origin.anatomy.full_shape())

    def shares(self) -> list[Share]:
        """All elements, cut for the workers that the job allows.

        Siblings, which run together, stay together. They are dealt out in turns: what belongs to a late
        layer costs less than what belongs to an early one.
        """
        sets = sibling_sets(list(self._elements.values()), self._run.origin.anatomy.full_shape())
        workers = self._run.spec.budget.max_workers
        count = 1 if workers == 1 else min(len(sets), SHARES_A_WORKER * workers)
        return [
            {
                "elements": [element.id for each in sets[number::count] for element in each],
                "rows": self._rows,
            }
            for number in range(count)
        ]

    def ablated(self) -> dict[str, Ablated]:
        """What the model is without each element, by its id, done by the run's crew."""
        shares = self.shares()
        outcomes = shared(
            self._run,
            "analyse",
            shares,
            self.work,
            lambda number: self._tell(len(shares[number]["elements"])),
        )
        self.token_layers += sum(each["token_layers"] for each in outcomes)
        without = {name: told for each in outcomes for name, told in each["ablated"].items()}
        return {name: Ablated(*map(float.fromhex, without[name])) for name in self._elements}

    def work(self, share: Share) -> Outcome:
        """What is measured for a share, as hexadecimal floats: exact, and JSON whatever they are.

        Raises ValueError for a share on another number of rows.
        """
        if share["rows"] != self._rows:
            raise ValueError(f"the share is on {share['rows']} rows, this weighing on {self._rows}")
        elements = [self._elements[name] for name in share["elements"]]
        before, ablated = self._tally.token_layers, dict[str, tuple[str, ...]]()
        for siblings in sibling_sets(elements, self._run.origin.anatomy.full_shape()):
            each = self._replay.losses_without(siblings)
            for element, losses in zip(siblings, each, strict=True):
                measured = astuple(Ablated.of(losses, self.base_losses))
                ablated[element.id] = tuple(map(float.hex, measured))
            self._tell(len(siblings))
        return {
            "ablated": ablated,
            "token_layers": self._tally.token_layers - before,
        }

    @cached_property
    def temperature(self) -> float:
        """At which losses are measured: that of the dense model on these rows."""
        run = self._run
        return temperature(
            run.origin.anatomy.model, self._sample, run.task, device=run.device, reporter=run.reporter
        )

    @cached_property
    def _sample(self) -> Split:
        return sample(self._run.selection, self._rows, self._run.spec.seed)

    @cached_property
    def _replay(self) -> PrefixReplay:
        run = self._run
        return PrefixReplay(
            run.origin.anatomy,
            self._sample,
            run.task,
            run.device,
            precision="fast",
            temperature=self.temperature,
            tally=self._tally,
        )

    def _tell(self, done: int) -> None:
        self._done += done
        self._run.progress("analyse", self._done, len(self._elements), "weighing elements")
