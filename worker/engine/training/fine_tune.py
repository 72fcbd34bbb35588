"""Training the dense model on the task."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from worker.engine.anatomy.heads import logits_of
from worker.engine.device import Device
from worker.engine.reporting import Reporter, SilentReporter, Stage
from worker.engine.tasks.base import Task
from worker.engine.tasks.split import Batch, Split
from worker.engine.training.loop import TrainingLoop
from worker.engine.training.options import FitOptions, FitResult

# Examples seen by default; small data sets are passed over more often, within these bounds.
EXAMPLES = 60_000
EPOCHS = (3, 20)


def fine_tune(
    model: PreTrainedModel,
    train: Split,
    selection: Split,
    task: Task,
    options: FitOptions,
    *,
    device: Device,
    reporter: Reporter | None = None,
    stage: Stage = "baseline",
) -> FitResult:
    """Train all of `model` in place on the labels; afterwards it holds the best epoch's weights.

    AdamW with linear warm-up and decay, early stopping on the selection split. The same seed gives
    the same weights on CPU, unless `options.max_seconds` cuts it short. Raises Stopped.
    """

    def loss_of(batch: Batch) -> torch.Tensor:
        with device.autocast(options.precision):
            logits = logits_of(model(**device.put(batch.inputs)))
        return task.losses(logits, batch).mean()

    return TrainingLoop(
        model,
        train,
        selection,
        task,
        options,
        device,
        reporter or SilentReporter(),
        stage,
        epochs=options.epochs or default_epochs(len(train), EXAMPLES, EPOCHS),
        learning_rate=options.learning_rate or default_learning_rate(model),
        loss_of=loss_of,
        message="fine-tuning the base model",
    ).run()


def default_epochs(rows: int, examples: int, bounds: tuple[int, int]) -> int:
    """Passes over `rows` that show about `examples` of them, within `bounds`."""
    return max(bounds[0], min(bounds[1], round(examples / rows)))


def default_learning_rate(model: PreTrainedModel) -> float:
    """1e-4 at width 384 and 3.5e-5 at 768: wider models want smaller steps."""
    return float(min(1e-3, 1e-4 * (384 / model.config.hidden_size) ** 1.5))
