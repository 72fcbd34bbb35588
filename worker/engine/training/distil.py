"""Recovering an approximated model by learning from the dense one it came from."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.heads import logits_of
from worker.engine.anatomy.hidden import dimensions
from worker.engine.device import Device
from worker.engine.reporting import Reporter, SilentReporter, Stage
from worker.engine.tasks.base import Task
from worker.engine.tasks.split import Batch, Split
from worker.engine.training.attention import QUERY_AND_KEY, attention_distance, noted_queries
from worker.engine.training.fine_tune import default_epochs, default_learning_rate
from worker.engine.training.loop import TrainingLoop
from worker.engine.training.options import DistilOptions, FitResult
from worker.engine.training.teacher import TeacherCache

EXAMPLES = 120_000
EPOCHS = (4, 60)
# Of the fine-tuning rate, for a student that lost nothing, and for one of which nothing is left. Of 5, 2.5
# and 1.25 times the last was best on SST-2 with half of the layers (.882, at 5 times .875), and no worse than
# 2.5 times with one of six (`bench.rates`).
LEARNING_RATE_FACTORS = (1.0, 2.0)
LEAST_VARIANCE = 1e-6


def distil(
    student: PreTrainedModel,
    teacher: PreTrainedModel | TeacherCache,
    train: Split,
    selection: Split,
    task: Task,
    options: DistilOptions,
    *,
    device: Device,
    reporter: Reporter | None = None,
    stage: Stage = "recover",
) -> FitResult:
    """Train `student` in place to answer as `teacher`; afterwards it holds the best epoch's weights.

    Loss = soft * the task's soft loss: for classes T^2 * KL(teacher / T || student / T)  (Hinton et al. 2015,
           section 2), for scores the squared error
         + hard * the task's own loss
         + hidden * mean squared error of hidden states, in units of the teacher's variance:
           after each layer that is left, the student should hold what the dense model hands to the next
           layer that is left; of a student with fewer hidden dimensions, in those that it has
         + attention * divergence of attention maps from the teacher's, mean over the layers that are left: of
           each head that is left from the same head's.
    A cache (see `matched_layers` for its layers) serves any number of students of one split.
    Dropout is off: the teacher's answers regularise. Raises Stopped.
    """
    reporter = reporter or SilentReporter()
    if isinstance(teacher, PreTrainedModel):
        layers = matched_layers(student) if options.hidden else []
        maps = matched_attention(student) if options.attention else {}
        teacher = TeacherCache(
            teacher, train, layers, device=device, precision=options.precision, attention=list(maps)
        )
    loss = _DistillationLoss(student, teacher, task, options, device)
    return TrainingLoop(
        student,
        train,
        selection,
        task,
        options,
        device,
        reporter,
        stage,
        epochs=options.epochs or default_epochs(len(train), EXAMPLES, EPOCHS),
        learning_rate=options.learning_rate or recovery_learning_rate(student),
        loss_of=loss,
        dropout=False,
        message="distilling from the dense model",
        once=lambda: teacher.seconds,
    ).run()


def recovery_learning_rate(student: PreTrainedModel, removed: float = 1.0) -> float:
    """By the part of the computation that was removed since `student` was last trained, 0 to 1."""
    least, most = LEARNING_RATE_FACTORS
    return (least + (most - least) * removed) * default_learning_rate(student)


def matched_layers(student: PreTrainedModel) -> list[int]:
    """For each layer that `student` has, the dense layer whose output it should give.

    That is the one before the next layer that is left, and the last one for the last.
    """
    shape = anatomy_of(student).full_shape()
    present = [index for index, layer in enumerate(shape.layers) if layer.present]
    return [index - 1 for index in present[1:]] + [len(shape.layers) - 1] if present else []


def matched_attention(student: PreTrainedModel) -> dict[int, tuple[int, ...]]:
    """For each layer with attention that `student` has, by its dense index, the heads that are left of it."""
    layers = enumerate(anatomy_of(student).full_shape().layers)
    return {index: layer.heads for index, layer in layers if layer.heads}


class _DistillationLoss:
    """Mean loss of a batch of the training split."""

    def __init__(
        self,
        student: PreTrainedModel,
        cache: TeacherCache,
        task: Task,
        options: DistilOptions,
        device: Device,
    ) -> None:
        self.student, self.cache = student, cache
        self.task, self.options, self.device = task, options, device
        layers = enumerate(matched_layers(student)) if options.hidden else ()
        self.pairs = [(place, layer) for place, layer in layers if layer in cache.layers]
        self.anatomy = anatomy_of(student)
        heads = matched_attention(student).items() if options.attention else ()
        self.heads = {layer: kept for layer, kept in heads if layer in cache.attention}
        held = dimensions(self.anatomy, self.anatomy.full_shape())
        # Of the teacher's: all of them without a copy.
        whole = len(held) == self.anatomy.hidden_size
        self.dimensions: slice | torch.Tensor = slice(None) if whole else torch.tensor(held)

    def __call__(self, batch: Batch) -> torch.Tensor:
        options, target = self.options, self.device.torch_device
        inputs = self.device.put(batch.inputs)
        with self.device.autocast(options.precision), noted_queries(self.anatomy, self.heads) as noted:
            output = self.student(**inputs, output_hidden_states=bool(self.pairs))
        logits, taught = logits_of(output).float(), self.cache.answers(batch)
        soft = self.task.soft_loss(logits, taught.logits.to(target), batch, options.temperature)
        loss = options.soft * soft
        if options.hard:
            loss = loss + options.hard * self.task.losses(logits, batch).mean()
        if self.pairs:
            mask = batch.mask.to(target)
            for place, layer in self.pairs:
                wanted = taught.hidden[layer][:, self.dimensions].to(target).float()
                held = output.hidden_states[place + 1][mask].float()
                scale = self.cache.variance[layer][self.dimensions].mean().clamp_min(LEAST_VARIANCE)
                error = functional.mse_loss(held, wanted) / scale.item()
                loss = loss + options.hidden / len(self.pairs) * error
        for layer, queries in noted.items():
            distance = self._attention_distance(batch, layer, queries, taught.queries[layer])
            loss = loss + options.attention / len(noted) * distance
        return loss

    def _attention_distance(
        self, batch: Batch, layer: int, queries: dict[str, torch.Tensor], taught: torch.Tensor
    ) -> torch.Tensor:
        """Of a layer's maps; `taught` (tokens, 2, heads * head size) of all heads, without padding."""
        target, size = self.device.torch_device, self.anatomy.head_size
        mask = batch.mask.to(target)
        kept = torch.tensor(self.heads[layer], device=target)
        of_heads = taught.to(target).unflatten(-1, (-1, size))[:, :, kept].flatten(2)
        teacher = of_heads.new_zeros((*mask.shape, *of_heads.shape[1:]))
        teacher[mask] = of_heads
        student = torch.stack([queries[name] for name in QUERY_AND_KEY])
        return attention_distance(student, teacher.movedim(2, 0), mask, size)
