"""Recovery without training: what a recipe leaves, solved anew on a sample of the training rows."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from models.spec import LearnMasks, Recipe, Reconstruct
from worker.engine.anatomy.slicing import sliced
from worker.engine.run import Run
from worker.engine.stages.fitting import judged
from worker.engine.stages.problem import sample
from worker.engine.strategies.base import Judgement, Score
from worker.engine.training.reconstruct import reconstruct

ROWS = 2048  # "2K samples" are what Kwon et al. 2022 ask for
TOKENS = 65_536  # at most: what hidden states take memory for
DAMPING = 0.01


def reconstructed(run: Run, recipe: Recipe) -> tuple[PreTrainedModel, Recipe, Judgement]:
    """The model of a recipe, with a `reconstruct` step if that helps on the selection split.

    It is always made from the dense model, never from an earlier reconstruction or from weights that masks
    were trained with: so its recipe, which has one such step at most and as its last, can be replayed
    (`replayed`).
    """
    structure = Recipe(
        steps=tuple(step for step in recipe.steps if not isinstance(step, Reconstruct | LearnMasks))
    )
    before = replayed(run, structure)
    untouched = judged(run, before)
    if run.shape(structure) == run.anatomy.full_shape():
        return before, structure, untouched
    whole = structure.then(_step(run))
    model = replayed(run, whole)
    judgement = judged(run, model)
    if (judgement.metric, -judgement.loss) >= (untouched.metric, -untouched.loss):
        return model, whole, judgement
    return before, structure, untouched


def replayed(run: Run, recipe: Recipe) -> PreTrainedModel:
    """The model of a recipe without training: on the same base and data the same weights each time."""
    model = sliced(run.anatomy.model, run.shape(recipe))
    for step in recipe.steps:
        if isinstance(step, Reconstruct):
            rows = sample(run.train, step.rows, step.seed)
            reconstruct(
                model,
                run.anatomy.model,
                rows,
                run.task,
                run.device,
                damping=step.damping,
                reporter=run.reporter,
            )
    return model


def reconstruction_scores(run: Run, recipes: Sequence[Recipe]) -> list[Score]:
    """How the recipes' models do on the selection split, each reconstructed."""
    scores = []
    for recipe in recipes:
        judgement = reconstructed(run, recipe)[2]
        scores.append(Score(judgement.loss, judgement.metric))
    return scores


def _step(run: Run) -> Reconstruct:
    affordable = int(TOKENS // max(1.0, float(run.train.lengths.mean())))
    rows = max(1, min(ROWS, affordable, len(run.train)))
    return Reconstruct(rows=rows, damping=DAMPING, seed=run.spec.seed)
