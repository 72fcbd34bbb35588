"""What a model with masks is to learn: the dense model's answers, and its hidden states."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from worker.engine.anatomy import Anatomy
from worker.engine.anatomy.heads import logits_of
from worker.engine.anatomy.hidden import dimensions
from worker.engine.device import Device
from worker.engine.learned.gating import learning, noted_states
from worker.engine.learned.vib import Masks, soft_keep
from worker.engine.tasks.base import Task
from worker.engine.tasks.split import Batch
from worker.engine.training.distil import LEAST_VARIANCE
from worker.engine.training.options import DistilOptions
from worker.engine.training.teacher import TeacherCache


class MaskedDistillation:
    """Mean loss of a batch under sampled masks, as `training.distil` has it for a model without.

    After each layer that stays (log alpha below 0, as it stands) the states are held to those that the dense
    model hands to the next layer that stays, each dimension counted as far as it is expected to stay.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        masks: Masks,
        cache: TeacherCache,
        task: Task,
        options: DistilOptions,
        device: Device,
    ) -> None:
        self.anatomy, self.masks, self.cache = anatomy, masks, cache
        self.task, self.options, self.device = task, options, device
        self.dimensions = torch.tensor(dimensions(anatomy, anatomy.full_shape()))

    def of(self, batch: Batch, sharpness: float) -> Tensor:
        """A scalar; noise is drawn from the global generator."""
        options, target = self.options, self.device.torch_device
        with (
            self.device.autocast(options.precision),
            learning(self.anatomy, self.masks, sharpness),
            noted_states(self.anatomy) as states,
        ):
            output = self.anatomy.model(**self.device.put(batch.inputs))
        logits, taught = logits_of(output).float(), self.cache.answers(batch)
        soft = self.task.soft_loss(logits, taught.logits.to(target), batch, options.temperature)
        loss = options.soft * soft
        if options.hard:
            loss = loss + options.hard * self.task.losses(logits, batch).mean()
        pairs = [(place, layer) for place, layer in self._pairs() if layer in self.cache.layers]
        mask = batch.mask.to(target)
        for place, layer in pairs:
            error = self._distance(states[place][mask], taught.hidden[layer], layer, sharpness)
            loss = loss + options.hidden / len(pairs) * error
        return loss

    def _pairs(self) -> list[tuple[int, int]]:
        """The layer after which states are compared, and the dense layer with whose they are."""
        held = [part.index for part in self.anatomy.parts]
        staying = [index for index in held if self._stays(index)]
        if not staying:
            return []
        pairs = [(one, following - 1) for one, following in pairwise(staying)]
        # Where a norm follows the last layer, it is that norm's states which the dense model has last.
        last = held[-1] if "final_norm" in self.anatomy.outside else staying[-1]
        return [*pairs, (last, self.anatomy.layers - 1)]

    def _stays(self, layer: int) -> bool:
        mask = self.masks.of("layers", layer)
        return mask is None or float(mask.log_alpha.detach()) < 0.0

    def _distance(self, states: Tensor, taught: Tensor, layer: int, sharpness: float) -> Tensor:
        """Of states (tokens, held) from the teacher's (tokens, width), in units of the teacher's variance."""
        wanted = taught[:, self.dimensions].to(states.device).float()
        squared = (states.float() - wanted).square()
        scale = float(self.cache.variance[layer][self.dimensions].mean().clamp_min(LEAST_VARIANCE))
        hidden = self.masks.of("hidden")
        if hidden is None:
            return squared.mean() / scale
        kept = soft_keep(hidden.log_alpha, sharpness)
        return (squared @ kept).mean() / (kept.sum() * scale)
