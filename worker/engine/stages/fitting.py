"""How models are trained in a run: what the spec asks, within the time that is left."""

from __future__ import annotations

from transformers import PreTrainedModel

from models.spec import TrainingOptions
from worker.engine.reporting import Stage
from worker.engine.run import Run
from worker.engine.training import DistilOptions, FitOptions, FitResult, distil

BASELINE_SHARE = 0.3  # of the time left: fine-tuning the dense model may take no more
TRIAL_SHARE = 0.08  # of the time left: one arm's trial
RECOVERY_SHARE = 0.6  # of the time left after the reserve: one recovery
TRIAL_EPOCHS = 1


def baseline_options(run: Run) -> FitOptions:
    """For fine-tuning the base model."""
    asked = run.spec.baseline
    return FitOptions(
        epochs=asked.epochs,
        learning_rate=asked.learning_rate,
        batch_size=asked.batch_size,
        metric=run.spec.metric,
        max_seconds=run.stopwatch.left * BASELINE_SHARE,
        seed=run.spec.seed,
    )


def trial_options(run: Run) -> DistilOptions:
    """For the short training that compares arms: one pass, at the end of which the rate is down to zero."""
    asked = _recovery(run)
    return DistilOptions(
        epochs=TRIAL_EPOCHS,
        learning_rate=asked.learning_rate,
        batch_size=asked.batch_size,
        metric=run.spec.metric,
        max_seconds=run.stopwatch.left * TRIAL_SHARE,
        seed=run.spec.seed,
        hard=_hard(run),
    )


def recovery_options(run: Run, *, reserve: float) -> DistilOptions:
    """For a rung of the recovery; `reserve` seconds of the budget are left alone."""
    asked = _recovery(run)
    return DistilOptions(
        epochs=asked.epochs,
        learning_rate=asked.learning_rate,
        batch_size=asked.batch_size,
        metric=run.spec.metric,
        max_seconds=max(1.0, run.stopwatch.left - reserve) * RECOVERY_SHARE,
        seed=run.spec.seed,
        hard=_hard(run),
    )


def distilled(run: Run, student: PreTrainedModel, options: DistilOptions, stage: Stage) -> FitResult:
    """Train `student` in place by distillation from the dense model on the run's lessons."""
    return distil(
        student,
        run.teacher,
        run.lessons,
        run.selection,
        run.task,
        options,
        device=run.device,
        reporter=run.reporter,
        stage=stage,
    )


def _recovery(run: Run) -> TrainingOptions:
    return TrainingOptions() if run.spec.recovery == "off" else run.spec.recovery


def _hard(run: Run) -> float:
    """Weight of the labels: none among disturbed copies, which may not deserve theirs any more."""
    return DistilOptions.hard if run.lessons is run.train else 0.0
