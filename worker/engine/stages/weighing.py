"""The loss without each element, in shares that any worker with the dense model and the data can do."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.spec import JobSpec
from worker.engine.crew import Outcome, Share
from worker.engine.device import Device
from worker.engine.measure.machine import describe
from worker.engine.reporting import Reporter
from worker.engine.run import Run
from worker.engine.significance.ablation import losses_without
from worker.engine.significance.elements import Element
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.significance.report import all_elements
from worker.engine.stages.problem import sample

SHARES_A_WORKER = 4  # so that a worker that comes late, or is slower, still takes what it can do
NEEDED = (
    "prepare/done.json",
    "prepare/data/",
    "baseline/done.json",
    "baseline/model/",
    "baseline/vocabulary/",
)
"""Of the finished stages' files: names, or folders with a slash at their end."""
NOT_NEEDED = ("prepare/data/train.parquet", "prepare/data/holdout.parquet")


class UnlikeMachine(Exception):
    """The share is of a machine that may round otherwise: its numbers must not be mixed with this one's."""


class Weighing:
    """Mean losses on `rows` rows of the selection split, of the run's dense model without an element.

    The numbers do not depend on how the elements are cut into shares: each is computed by itself, from
    the same batches and the same hidden states. They may depend on the processor, the libraries and the
    number of threads, which is why a share names them.
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
        machine = machine_of(self._run.device)
        return [
            {"elements": names[number::count], "rows": self._rows, "machine": machine}
            for number in range(count)
        ]

    def shared(self) -> dict[str, float]:
        """The mean loss without each element, by its id, done by the run's crew."""
        shares = self.shares()
        outcomes = self._run.crew.share(
            "analyse", shares, self.work, lambda number: self._tell(len(shares[number]["elements"]))
        )
        if outcomes.by_others:
            self._run.reporter.event(
                "analyse.shared",
                f"Other workers did {outcomes.by_others} of {len(shares)} shares of the weighing.",
                shares=len(shares),
                by_others=outcomes.by_others,
            )
        without = {name: float.fromhex(loss) for each in outcomes.values for name, loss in each.items()}
        return {name: without[name] for name in self._elements}

    def work(self, share: Share) -> Outcome:
        """The losses of a share, as hexadecimal floats: exact, and JSON whatever they are."""
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


def is_needed(name: str) -> bool:
    """Whether a helper needs that file of the run's folder. The holdout it never sees."""
    return name.startswith(NEEDED) and name not in NOT_NEEDED


def machine_of(device: Device) -> dict[str, Any]:
    """What the last bits of a result may depend on."""
    machine = describe("cuda" if device.torch_device.type == "cuda" else "cpu")
    return {
        "processor": machine.gpu or machine.processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": machine.versions,
    }


def helper(spec: JobSpec, workdir: Path, reporter: Reporter, first: Share) -> Callable[[Share], Outcome]:
    """What does shares of a run whose finished stages' files (`NEEDED`) lie in `workdir`.

    Loads the model and computes its hidden states. Raises UnlikeMachine where the run computes on
    another kind of machine than this process.
    """
    torch.set_num_threads(first["machine"]["threads"])
    run = Run(spec, workdir, reporter)
    here = machine_of(run.device)
    if here != first["machine"]:
        raise UnlikeMachine(f"{here} is not {first['machine']}")
    weighing = Weighing(run, first["rows"])
    weighing.base_losses()

    def work(share: Share) -> Outcome:
        if (share["machine"], share["rows"]) != (here, first["rows"]):  # another attempt's, elsewhere
            raise UnlikeMachine("the job goes on in another way than it was when this process began")
        return weighing.work(share)

    return work
