"""Smaller word embedding tables to try on the dense model, and which of them is worth what it costs.

Half of a small model is this table, and a task uses a tenth of its rows. A vocabulary is chosen before
anything else is removed: all that follows is then weighed, trained and measured with the tokenizer that
will be delivered. What comes after it is in `ranks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.spec import PruneVocabulary, Recipe
from models.spec.ranges import as_ranges
from worker.engine.anatomy.slicing import sliced
from worker.engine.delivery import Delivered
from worker.engine.export.safetensors import save_folder
from worker.engine.measure.verdict import allowed_drop
from worker.engine.origin import Origin
from worker.engine.run import Run
from worker.engine.significance.quantization import bytes_per_parameter
from worker.engine.strategies.goal import MARGIN, DenseReference, Goal
from worker.engine.vocabulary import TokenizerUnsupported, needed_rows, with_rows
from worker.engine.workspace import read_json, write_json

RESERVES = {"task": 0, "task-and-common": 2000}
"""By name: common pieces that stay beside those that the training data uses."""
SHARE_OF_DROP = 0.5  # of the accuracy drop that is allowed: what the smaller table may cost
# Of the layers' bytes: what recovery is expected to do with, and the relative loss of metric for each part
# that is missing from it. MiniLM on TREC lost 6.4 % with .06 of them left, and 0.4 % with .33.
ENOUGH_LEFT, LOST_BY_LAYERS = 1 / 3, 0.2
LEAST_METRIC = 1e-3  # what losses are relative to, where the metric is 0
STEP_FILE = "step.json"
SMALL = frozenset({"size", "balanced"})
"""Focuses that want a smaller file than is asked for."""


@dataclass(frozen=True)
class Table:
    """A smaller table: the model and tokenizer with its rows, and the steps from there.

    `rows` is the step from the dense model to that of `origin`; empty where it is the dense model.
    """

    origin: Origin
    rows: Recipe = field(default_factory=Recipe)
    start: Recipe = field(default_factory=Recipe)

    @property
    def recipe(self) -> Recipe:
        """From the dense model on."""
        return self.rows.then(*self.start.steps)


def wants_smaller_table(run: Run, whole: Delivered, dense_bytes: int) -> bool:
    """Whether size is the focus, or a bound that `whole` does not hold.

    `whole` is the dense model in the precision that is delivered. Speed gains nothing by a smaller table, and
    every word that the training data lacks loses.
    """
    return run.spec.focus in SMALL or too_large(run, whole, dense_bytes)


def smaller_vocabularies(run: Run) -> dict[str, Table]:
    """Tables of fewer rows to try, by name; the dense model with each is written.

    Empty where the job does not allow them, the tokenizer cannot be rewritten, or all rows are needed.
    """
    tables: dict[str, Table] = {}
    for name, reserve in RESERVES.items() if "prune_vocabulary" in run.spec.approximations else ():
        try:
            step = _step(run, reserve)
        except TokenizerUnsupported as error:
            run.reporter.event("vocabulary.kept", f"The vocabulary stays as it is: {error}.")
            return {}
        recipe = Recipe(steps=(step,))
        shape = run.dense.anatomy.shape(recipe)
        assert shape.rows is not None
        known = any(recipe == table.rows for table in tables.values())
        if len(shape.rows) == run.dense.anatomy.vocabulary or known:
            continue
        origin = run.with_vocabulary(name)
        smaller = sliced(run.dense.anatomy.model, shape)
        save_folder(smaller, with_rows(run.dense.tokenizer, shape.rows), origin.folder)
        write_json(origin.folder / STEP_FILE, step.model_dump(mode="json"))
        tables[name] = Table(origin, recipe)
    return tables


def best_table(run: Run, whole: Delivered, dense: Delivered, tried: Mapping[str, Delivered]) -> str | None:
    """The name of the smallest that costs at most half of the accuracy drop that is allowed.

    Without such a one the most accurate that costs no more than what is allowed: layers that would have to go
    instead cost more. Where a bound on size then leaves too little room for layers, the one that is estimated
    to cost least together with the layers that have to go. None for the table of `whole`, the `dense` model
    in the precision that is delivered. Judged on the selection split, against the lower score of both: what
    rounding happens to gain there is nothing that a table could lose.
    """
    metric = min(whole.metric, dense.metric)
    allowed = max(0.0, allowed_drop(run.spec.constraints.accuracy, metric))
    cheap = [name for name in tried if tried[name].metric >= metric - SHARE_OF_DROP * allowed]
    tolerable = [name for name in tried if tried[name].metric >= metric - allowed]
    best = (
        min(cheap, key=lambda name: tried[name].size_bytes)
        if cheap
        else max(tolerable, key=lambda name: tried[name].metric, default=None)
    )
    bound = _bytes_allowed(run, dense.size_bytes)
    if bound is None or layers_left(run, whole if best is None else tried[best], bound) >= ENOUGH_LEFT:
        return best

    def lost(form: Delivered) -> float:
        gone = max(0.0, ENOUGH_LEFT - layers_left(run, form, bound))
        return max(0.0, metric - form.metric) / max(abs(metric), LEAST_METRIC) + LOST_BY_LAYERS * gone

    least = min(tried, key=lambda name: lost(tried[name]), default=None)
    return least if least is not None and lost(tried[least]) < lost(whole) else None


def layers_left(run: Run, form: Delivered, bound: float) -> float:
    """Of the layers' bytes in this form of the dense model, the part that `bound` bytes have room for.

    Below 0 where what is in no layer is larger than that.
    """
    anatomy = run.dense.anatomy
    shape = anatomy.shape(form.recipe)
    weights = anatomy.parameters(shape) - anatomy.parameters(shape.without_layers())
    return 1.0 - (form.size_bytes - bound) / (weights * bytes_per_parameter(anatomy, form.recipe))


def vocabulary_recipe(run: Run) -> Recipe:
    """The step from the dense model to the one that the search begins with; empty where they are the same."""
    step = read_json(run.origin.folder / STEP_FILE)
    return Recipe() if step is None else Recipe(steps=(PruneVocabulary.model_validate(step),))


def start_recipe(run: Run) -> Recipe:
    """What the baseline has decided about the model that the search begins with."""
    measured = run.workspace.result("baseline")
    assert measured is not None
    return Recipe.model_validate({"steps": measured["start"]})


def too_large(run: Run, delivered: Delivered, dense_bytes: int) -> bool:
    """Whether a bound on size does not hold, given the dense fp32 model's bytes."""
    bound = _bytes_allowed(run, dense_bytes)
    return bound is not None and delivered.size_bytes > bound


def _bytes_allowed(run: Run, dense_bytes: int) -> float | None:
    """What the search aims at, given the dense fp32 model's bytes; None without a bound on size."""
    return Goal.of(run.spec.constraints, DenseReference(1.0, dense_bytes, 1), margin=MARGIN).bytes


def _step(run: Run, reserve: int) -> PruneVocabulary:
    origin, anatomy = run.dense, run.dense.anatomy
    rows = needed_rows(
        origin.tokenizer,
        origin.train.ids,
        anatomy.vocabulary,
        fixed=anatomy.fixed_rows,
        reserve=reserve,
    )
    return PruneVocabulary(rows=as_ranges(rows))
