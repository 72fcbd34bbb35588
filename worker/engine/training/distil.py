"""Recovering an approximated model by learning from the dense one it came from."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from worker.engine.anatomy import anatomy_of
from worker.engine.anatomy.heads import logits_of
from worker.engine.device import Device
from worker.engine.reporting import Reporter, SilentReporter, Stage
from worker.engine.tasks.base import Task
from worker.engine.tasks.split import Batch, Split
from worker.engine.training.fine_tune import default_epochs, default_learning_rate
from worker.engine.training.loop import TrainingLoop
from worker.engine.training.options import DistilOptions, FitResult
from worker.engine.training.teacher import TeacherCache

EXAMPLES = 120_000
EPOCHS = (4, 60)
# Of the fine-tuning rate, for a student that lost half of its computation or more: it has lost its
# balance, and takes, and needs, larger steps. One that lost little is only disturbed by them.
LEARNING_RATE_FACTOR = 5.0


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
           layer that is left.
    A cache (see `matched_layers` for its layers) serves any number of students of one split.
    Dropout is off: the teacher's answers regularise. Raises Stopped.
    """
    reporter = reporter or SilentReporter()
    if isinstance(teacher, PreTrainedModel):
        layers = matched_layers(student) if options.hidden else []
        teacher = TeacherCache(teacher, train, layers, device=device, precision=options.precision)
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
    ).run()


def recovery_learning_rate(student: PreTrainedModel, removed: float = 1.0) -> float:
    """By the part of the computation that was removed since `student` was last trained, 0 to 1."""
    factor = 1.0 + (LEARNING_RATE_FACTOR - 1.0) * min(1.0, removed / 0.5)
    return factor * default_learning_rate(student)


def matched_layers(student: PreTrainedModel) -> list[int]:
    """For each layer that `student` has, the dense layer whose output it should give.

    That is the one before the next layer that is left, and the last one for the last.
    """
    shape = anatomy_of(student).full_shape()
    present = [index for index, layer in enumerate(shape.layers) if layer.present]
    return [index - 1 for index in present[1:]] + [len(shape.layers) - 1] if present else []


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

    def __call__(self, batch: Batch) -> torch.Tensor:
        options, target = self.options, self.device.torch_device
        inputs = self.device.put(batch.inputs)
        with self.device.autocast(options.precision):
            output = self.student(**inputs, output_hidden_states=bool(self.pairs))
        logits, taught = logits_of(output).float(), self.cache.answers(batch)
        soft = self.task.soft_loss(logits, taught.logits.to(target), batch, options.temperature)
        loss = options.soft * soft
        if options.hard:
            loss = loss + options.hard * self.task.losses(logits, batch).mean()
        if self.pairs:
            mask = batch.mask.to(target)
            for place, layer in self.pairs:
                wanted = taught.hidden[layer].to(target).float()
                held = output.hidden_states[place + 1][mask].float()
                error = functional.mse_loss(held, wanted) / self.cache.variance[layer]
                loss = loss + options.hidden / len(self.pairs) * error
        return loss
