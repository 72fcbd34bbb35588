"""How sure of its answers a model is, as far as they are right: temperature scaling."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from torch import nn

from worker.engine.device import Device
from worker.engine.reporting import Reporter
from worker.engine.tasks import Split, Task
from worker.engine.tasks.evaluate import affordable, answered

RANGE = (0.1, 10.0)


def temperature(
    model: nn.Module, rows: Split, task: Task, *, device: Device, reporter: Reporter | None = None
) -> float:
    """By which the model's logits are divided for the least mean loss on `rows` (Guo et al. 2017, section 4).

    Above 1 of a model that is too sure of itself. Its loss on rows that it was not trained on is made of the
    few that it gets wrong, and falls with whatever makes it less sure; so losses without an element say what
    the task needs at this temperature only. 1 for tasks whose outputs are no logits. Of outputs that are very
    large (language models) the first rows are looked at only. Raises Stopped.
    """
    if not task.gives_logits:
        return 1.0
    few = rows.select(np.arange(affordable(len(rows), rows)))
    answers = list(answered(model, few, device, reporter=reporter))

    def mean_loss(exponent: float) -> float:
        divisor = float(np.exp(exponent))
        return sum(float(task.losses(logits / divisor, batch).sum()) for batch, logits in answers) / len(few)

    low, high = np.log(RANGE)
    found = minimize_scalar(mean_loss, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))
