"""Trials: a moment's training for each of some recipes, in shares that any worker can do."""

from __future__ import annotations

from collections.abc import Sequence

from models.spec import Recipe
from worker.engine.anatomy.slicing import sliced
from worker.engine.crew import Outcome, Share
from worker.engine.run import Run
from worker.engine.stages.fitting import learning_rate, recovered, trial_options, trial_seconds
from worker.engine.stages.sharing import shared
from worker.engine.strategies.base import Score


class Trials:
    """Short distillations of recipes' models from the dense one, judged on the selection split.

    A trial depends on nothing but its recipe, the seed and its seconds: two on one worker score as the same
    two on two workers, as long as neither is cut short by the time.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def scores(self, recipes: Sequence[Recipe]) -> list[Score]:
        """Of the recipes' models, in that order."""
        outcomes = shared(self._run, "search", self.shares(recipes), self.work)
        return [Score(**{name: float.fromhex(value) for name, value in each.items()}) for each in outcomes]

    def shares(self, recipes: Sequence[Recipe]) -> list[Share]:
        """One a recipe, all of the same length."""
        seconds = trial_seconds(self._run)
        return [{"recipe": recipe.model_dump(mode="json"), "seconds": seconds} for recipe in recipes]

    def work(self, share: Share) -> Outcome:
        """The score of a share's recipe, as hexadecimal floats: exact, and JSON whatever they are."""
        run = self._run
        dense = run.anatomy.model
        student = sliced(dense, run.shape(Recipe.model_validate(share["recipe"])))
        options = trial_options(run, learning_rate(run, student, dense), share["seconds"])
        judgement, _ = recovered(run, student, options, stage="search")
        return {"loss": judgement.loss.hex(), "metric": judgement.metric.hex()}
