"""A stage's work in shares, which any worker with the dense model and the data can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from worker.engine.crew import Outcome, Share
from worker.engine.device import Device
from worker.engine.measure.machine import describe
from worker.engine.reporting import Stage
from worker.engine.run import Run


class UnlikeMachine(Exception):
    """The share is of a machine that may round otherwise: its numbers must not be mixed with this one's."""


def shared(
    run: Run,
    stage: Stage,
    shares: Sequence[Share],
    work: Callable[[Share], Outcome],
    told: Callable[[int], None] = lambda number: None,
) -> tuple[Outcome, ...]:
    """What became of all shares, in their order, done by the run's crew; an event tells of others' part.

    Each share is given the machine on which its numbers are true. `told` hears which came from elsewhere.
    """
    machine = machine_of(run.device)
    outcomes = run.crew.share(stage, [{**share, "machine": machine} for share in shares], work, told)
    if outcomes.by_others:
        run.reporter.event(
            f"{stage}.shared",
            f"Other workers did {outcomes.by_others} of {len(shares)} shares of the stage.",
            shares=len(shares),
            by_others=outcomes.by_others,
        )
    return outcomes.values


def machine_of(device: Device) -> dict[str, Any]:
    """What the last bits of a result may depend on."""
    machine = describe("cuda" if device.torch_device.type == "cuda" else "cpu")
    return {
        "processor": machine.gpu or machine.processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "versions": machine.versions,
    }
