"""Vocabularies to try on the dense model, and which of them is worth what it costs.

Half of a small model is its word embedding table, and a task uses a tenth of it. A vocabulary is chosen
before anything else is removed: all that follows is then weighed, trained and measured with the tokenizer
that will be delivered.
"""

from __future__ import annotations

from math import inf

from models.spec import PruneVocabulary, Recipe
from models.spec.ranges import as_ranges
from worker.engine.anatomy.slicing import sliced
from worker.engine.delivery import Delivered
from worker.engine.export.safetensors import save_folder
from worker.engine.run import Run
from worker.engine.strategies.goal import DenseReference, Goal
from worker.engine.vocabulary import TokenizerUnsupported, needed_rows, with_rows
from worker.engine.workspace import read_json, write_json

RESERVES = {"task": 0, "task-and-common": 2000}
"""By name: common pieces that stay beside those that the training data uses."""
SHARE_OF_DROP = 0.5  # of the accuracy drop that is allowed: what the smaller vocabulary may cost
MARGIN = 0.1  # of `Goal.of`, which tightens bounds on bytes by a tenth of it
STEP_FILE = "step.json"


def wants_vocabulary(run: Run, whole: Delivered, dense_bytes: int) -> bool:
    """Whether rows should go: allowed, and size is the focus or a bound that `whole` does not hold.

    `whole` is the dense model in the precision that is delivered. Speed gains nothing by it, and every word
    that the training data lacks loses.
    """
    if "prune_vocabulary" not in run.spec.approximations:
        return False
    bound = Goal.of(run.spec.constraints, DenseReference(1.0, dense_bytes, 1), margin=MARGIN).bytes
    return run.spec.focus == "size" or (bound is not None and whole.size_bytes > bound)


def make_vocabularies(run: Run) -> dict[str, Recipe]:
    """Write the dense model with each vocabulary to try; the recipes by the names of the origins.

    Empty where the tokenizer cannot be rewritten or all rows are needed.
    """
    recipes: dict[str, Recipe] = {}
    for name, reserve in RESERVES.items():
        try:
            step = _step(run, reserve)
        except TokenizerUnsupported as error:
            run.reporter.event("vocabulary.kept", f"The vocabulary stays as it is: {error}.")
            return {}
        recipe = Recipe(steps=(step,))
        shape = run.dense.anatomy.shape(recipe)
        assert shape.rows is not None
        if len(shape.rows) == run.dense.anatomy.vocabulary or recipe in recipes.values():
            continue
        folder = run.with_vocabulary(name).folder
        save_folder(
            sliced(run.dense.anatomy.model, shape), with_rows(run.dense.tokenizer, shape.rows), folder
        )
        write_json(folder / STEP_FILE, step.model_dump(mode="json"))
        recipes[name] = recipe
    return recipes


def vocabulary_recipe(run: Run) -> Recipe:
    """The step from the dense model to the one that the search begins with; empty where they are the same."""
    step = read_json(run.origin.folder / STEP_FILE)
    return Recipe() if step is None else Recipe(steps=(PruneVocabulary.model_validate(step),))


def best_vocabulary(run: Run, whole: Delivered, tried: dict[str, Delivered]) -> str | None:
    """The name of the smallest that costs at most half of the accuracy drop that is allowed, against `whole`.

    Without such a one the most accurate that costs no more than what is allowed: layers that would have to go
    instead cost more. None where there is no such one either. Judged on the selection split.
    """
    allowed = _allowed_drop(run, whole.metric)
    cheap = [name for name in tried if tried[name].metric >= whole.metric - SHARE_OF_DROP * allowed]
    if cheap:
        return min(cheap, key=lambda name: tried[name].size_bytes)
    tolerable = [name for name in tried if tried[name].metric >= whole.metric - allowed]
    return max(tolerable, key=lambda name: tried[name].metric, default=None)


def _step(run: Run, reserve: int) -> PruneVocabulary:
    origin = run.dense
    rows = needed_rows(origin.tokenizer, origin.train.ids, origin.anatomy.vocabulary, reserve=reserve)
    return PruneVocabulary(rows=as_ranges(rows))


def _allowed_drop(run: Run, metric: float) -> float:
    """In units of the metric; infinite without any bound on accuracy."""
    accuracy = run.spec.constraints.accuracy
    drops = [
        None if accuracy.max_relative_drop is None else accuracy.max_relative_drop * abs(metric),
        accuracy.max_absolute_drop,
        None if accuracy.min is None else max(0.0, metric - accuracy.min),
        None if accuracy.min_gain is None else 0.0,
    ]
    return min((drop for drop in drops if drop is not None), default=inf)
