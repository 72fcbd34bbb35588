"""What strategy `auto` decides in a run, told as an event and kept for the certificate."""

from __future__ import annotations

from dataclasses import replace

from models.spec import Recipe, RecoveryOptions
from worker.engine.decision import Decision
from worker.engine.run import Run
from worker.engine.stages.fitting import pass_seconds
from worker.engine.stages.problem import cost_model
from worker.engine.stages.reconstruct import reconstructed
from worker.engine.stages.rungs import has_room
from worker.engine.strategies.auto import Found, chosen_recovery


def choose_recovery(run: Run, recipe: Recipe) -> None:
    """Decide how the structure of `recipe` is to be recovered. What the user has ruled out stays so."""
    if not isinstance(run.asked.recovery, RecoveryOptions):
        return
    baseline = run.workspace.result("baseline")
    assert baseline is not None
    costs = cost_model(run)
    before, after = costs(run.anatomy.full_shape()), costs(run.shape(recipe))
    passing = pass_seconds(run, after.ms / before.ms)
    found = Found(max(before.ms / after.ms, before.bytes / after.bytes), None, run.stopwatch.left, passing)
    accuracy = run.spec.constraints.accuracy
    if found.has_time and accuracy.model_dump(exclude={"confidence"}, exclude_none=True):
        metric = reconstructed(run, recipe)[2].metric
        found = replace(found, keeps_accuracy=has_room(accuracy, baseline["metric"], metric))
    choice = chosen_recovery(found)
    run.reporter.event("strategy.chosen", choice.why, retraining_free=choice.recovery is not None)
    run.decide(Decision(choice.recovery, (choice.why,)))
