"""How models are trained in a run: what the spec asks, within the time that is left."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from models.spec import RecoveryOptions
from worker.engine.anatomy import anatomy_of
from worker.engine.memory import give_back
from worker.engine.reporting import Stage
from worker.engine.run import Run
from worker.engine.stages.problem import BACKWARD, judgement
from worker.engine.stages.timetable import LEAST_SECONDS, seconds_for
from worker.engine.strategies.base import Judgement
from worker.engine.tasks import evaluate
from worker.engine.training import (
    DistilOptions,
    FitOptions,
    FitResult,
    distil,
    recovery_learning_rate,
)

BASELINE_SHARE = 0.8  # of the time for the baseline: fine-tuning; the rest is for exporting and measuring
TRIAL_SHARE = 0.025  # of the budget: one arm's trial
TRIAL_SECONDS = 5.0  # but not less than this
TRIAL_SHARE_LEFT = 0.1  # of the time left, where that is less
FIRST_RECOVERY_SHARE = 0.65  # of the time left after the reserve: the next rung mends what the first lacks
RECOVERY_SHARE = 0.85  # the same of later rungs, and of the first where no other one would have time
WORTH_ANOTHER = 0.25  # of the first rung's training: what another one must have left, or the first takes it
TRIAL_EPOCHS = 1


def baseline_options(run: Run) -> FitOptions:
    """For fine-tuning the base model."""
    asked = run.spec.baseline
    return FitOptions(
        epochs=asked.epochs,
        learning_rate=asked.learning_rate,
        batch_size=asked.batch_size,
        metric=run.spec.metric,
        max_seconds=seconds_for(run, "baseline") * BASELINE_SHARE,
        seed=run.spec.seed,
    )


def trial_seconds(run: Run) -> float:
    """What one arm's trial may take. The same whenever it is asked, unless time has become short.

    Where the search is past its time already, half as long: what more of it goes is recovery's.
    """
    late = seconds_for(run, "search") <= LEAST_SECONDS
    share = TRIAL_SHARE / 2 if late else TRIAL_SHARE
    usual = max(TRIAL_SECONDS, share * run.spec.budget.max_minutes * 60)
    return min(usual, TRIAL_SHARE_LEFT * run.stopwatch.left)


def trial_options(run: Run, learning_rate: float, seconds: float) -> DistilOptions:
    """For the short training that compares arms: one pass, at the end of which the rate is down to zero."""
    return replace(_distil_options(run, learning_rate, seconds), epochs=TRIAL_EPOCHS)


def recovery_seconds(run: Run, reserve: float) -> float:
    """What the training of a rung that is not the first may take; `reserve` seconds are left alone."""
    return max(1.0, run.stopwatch.left - reserve) * RECOVERY_SHARE


def first_recovery_seconds(run: Run, reserve: float, measuring: float) -> float:
    """The same of the first rung, beside which another one is to have time that can mend it.

    `measuring`: seconds that exporting, scoring and timing the other one would take. What would be left
    for training it may be too little to mend anything; the first one then gets it.
    """
    usable = max(1.0, run.stopwatch.left - reserve)
    first = usable * FIRST_RECOVERY_SHARE
    worth = usable - first - measuring >= WORTH_ANOTHER * first
    return first if worth else usable * RECOVERY_SHARE


def pass_seconds(run: Run, part: float) -> float:
    """What one pass over the training rows takes: the teacher's forward, and both ways of a student that
    takes `part` of the teacher's time."""
    baseline = run.workspace.result("baseline")
    assert baseline is not None
    return float(len(run.train) * baseline["row_seconds"] * (1.0 + BACKWARD * part))


def recovery_options(run: Run, learning_rate: float, seconds: float) -> DistilOptions:
    """For a rung of the recovery, or a step before it."""
    return _distil_options(run, learning_rate, seconds)


def recovered(
    run: Run, student: PreTrainedModel, options: DistilOptions, stage: Stage
) -> tuple[Judgement, FitResult | None]:
    """Distil `student` in place from the dense model, if that helps on the selection split.

    Answers how it does on that split, and what training did: None when the untrained weights are better
    and were put back.
    """
    untrained = judged(run, student)
    weights = {name: value.clone() for name, value in student.state_dict().items()}
    fitted = distil(
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
    give_back()
    trained = judged(run, student)
    if (trained.metric, -trained.loss) >= (untrained.metric, -untrained.loss):
        return trained, fitted
    student.load_state_dict(weights)
    return untrained, None


def judged(run: Run, model: PreTrainedModel) -> Judgement:
    """The model on the whole selection split, in fp32."""
    return judgement(run, evaluate(model, run.selection, run.task, device=run.device))


def learning_rate(run: Run, student: PreTrainedModel, before: PreTrainedModel) -> float:
    """As the spec asks, else by what `student` has lost since it was `before`."""
    asked = recovery_of(run).learning_rate
    if asked is not None:
        return asked
    macs = [
        anatomy.macs(anatomy.full_shape(), run.length()) for anatomy in map(anatomy_of, (student, before))
    ]
    return recovery_learning_rate(student, removed=1.0 - macs[0] / macs[1])


def _distil_options(run: Run, rate: float, max_seconds: float) -> DistilOptions:
    asked = recovery_of(run)
    return DistilOptions(
        epochs=asked.epochs,
        learning_rate=rate,
        batch_size=asked.batch_size,
        metric=run.spec.metric,
        max_seconds=max_seconds,
        seed=run.spec.seed,
        # Disturbed copies may not deserve their labels any more.
        hard=DistilOptions.hard if run.lessons is run.train else 0.0,
        attention=asked.attention,
    )


def recovery_of(run: Run) -> RecoveryOptions:
    """What the job says of training; defaults where it forbids it, for what is trained all the same."""
    asked = run.spec.recovery
    return asked if isinstance(asked, RecoveryOptions) else RecoveryOptions()
