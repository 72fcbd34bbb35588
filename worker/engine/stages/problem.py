"""The search problem of a run: how shapes are judged, what they cost, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from models.spec import GroupSizes, Recipe, RecoveryOptions
from worker.engine.anatomy import Anatomy, Shape
from worker.engine.anatomy.shape import LayerShape
from worker.engine.approximations.quantize import BLOCK_SIZES
from worker.engine.measure.latency_table import LatencyTable
from worker.engine.measure.layer_size import LayerSize
from worker.engine.run import Run
from worker.engine.significance.base import Material, Significance, Tally
from worker.engine.significance.calibration import temperature
from worker.engine.significance.elements import Element, group_size
from worker.engine.significance.quantization import bytes_per_parameter
from worker.engine.significance.registry import ESTIMATORS
from worker.engine.significance.report import all_elements
from worker.engine.stages.racing import Race
from worker.engine.stages.sparse import longest_sequence, tried_elements
from worker.engine.stages.timing import reference_times
from worker.engine.stages.vocabulary import start_recipe
from worker.engine.strategies.base import Abandoned, Bar, Judgement, Score, SearchProblem, Teaching
from worker.engine.strategies.goal import CostModel, DenseReference, Goal
from worker.engine.tasks import Evaluation, Split, evaluate
from worker.engine.tasks.divergence import Divergence
from worker.engine.workspace import read_json

# Of the training rows for Fisher information, and of the selection split while shapes are compared: the
# most of these that the time allows. Acceptance uses the whole selection split.
COMPARED_ROWS = (512, 256, 128, 64)
SEARCH_PASSES = 90  # forward passes over them in a usual search, one for gradients counted three times
SEARCH_SHARE = 0.1  # of the budget, for these passes
RACED_ROWS = (2048, 1024, 512, 256, 128)  # of the selection split in races, where the time is short of all
RACING_SHARE = 0.2  # of the budget, for a pass over them for every change that may be tried
BACKWARD = 3.0  # times a forward pass: a training step of the same model


@dataclass(frozen=True)
class Prices:
    """What costs are predicted by: the latency table, and its milliseconds' `scale`; the file of the `whole`
    shape, what a parameter of a layer takes in it, how much more one that is in no layer takes
    (`outside_more`), and what else goes with a layer's parts (`beside`)."""

    table: LatencyTable
    scale: float
    whole: Shape
    whole_bytes: float
    per_parameter: float
    outside_more: float
    beside: LayerSize | None


def cost_model(run: Run) -> CostModel:
    """Predicted costs in the precision that will be delivered."""
    prices, anatomy = priced(run), run.anatomy
    beside = _beside_bytes(anatomy, prices.beside)
    tables = _outside_bytes(anatomy, prices.whole, prices.outside_more)
    return CostModel(
        milliseconds=lambda shape: prices.scale * prices.table.predict(shape),
        parameters=anatomy.parameters,
        whole_bytes=prices.whole_bytes,
        whole_parameters=anatomy.parameters(prices.whole),
        bytes_per_parameter=prices.per_parameter,
        other_bytes=lambda shape: beside(shape) + tables(shape),
    )


def priced(run: Run) -> Prices:
    """What the run has measured so far of times and files."""
    baseline = run.workspace.result("baseline")
    stored = read_json(run.workspace.folder("analyse") / "latency_table.json")
    assert baseline is not None
    assert stored is not None
    table = LatencyTable.from_json(stored)
    full = run.anatomy.full_shape()
    # The table may be of a busier hour, or of another run.
    scale = reference_times(run).whole / table.predict(full)
    in_stacks = 1.0 if run.quantizes else 4.0  # bytes of a parameter, whatever the weights are delivered in
    whole = full.applied(start_recipe(run))
    per_weight = bytes_per_parameter(
        run.dense.anatomy, Recipe.model_validate({"steps": baseline["quantize"]})
    )
    beside = None
    if table.layer_size is not None:
        beside = table.layer_size.less(layer_parameters(run.anatomy), in_stacks)
    more = outside_more(run.anatomy, whole, baseline["whole_bytes"], per_weight)
    return Prices(table, scale, whole, baseline["whole_bytes"], per_weight, more, beside)


def table_bytes(
    anatomy: Anatomy, whole: Shape, whole_bytes: float, per_weight: float
) -> Callable[[Shape], float]:
    """Of a shape, what its file lacks beyond `per_weight` a parameter because of what is in no layer.

    Tables of embeddings may be kept in more or fewer bits than the layers' weights. What a parameter outside
    the layers takes is what the measured file of `whole` leaves for them.
    """
    return _outside_bytes(anatomy, whole, outside_more(anatomy, whole, whole_bytes, per_weight))


def outside_more(anatomy: Anatomy, whole: Shape, whole_bytes: float, per_weight: float) -> float:
    """Bytes of a parameter that is in no layer beyond `per_weight`, by the measured file of `whole`."""
    outside = _outside_parameters(anatomy, whole)(whole)
    left = whole_bytes - per_weight * (anatomy.parameters(whole) - outside)
    return max(0.0, left) / max(1, outside) - per_weight


def _outside_bytes(anatomy: Anatomy, whole: Shape, more: float) -> Callable[[Shape], float]:
    held = _outside_parameters(anatomy, whole)
    all_held = held(whole)
    return lambda shape: more * (all_held - held(shape))


def _outside_parameters(anatomy: Anatomy, whole: Shape) -> Callable[[Shape], int]:
    bare = whole.without_layers()

    @cache
    def outside(rows: tuple[int, ...] | None, rank: int | None, gone: tuple[int, ...]) -> int:
        return anatomy.parameters(replace(bare, rows=rows, embedding_rank=rank, hidden_gone=gone))

    return lambda shape: outside(shape.rows, shape.embedding_rank, shape.hidden_gone)


def other_bytes(
    anatomy: Anatomy, layer_size: LayerSize | None, per_parameter: float
) -> Callable[[Shape], float]:
    """Of a shape, what its file lacks beside its parameters, by the files of the latency table's stacks."""
    beside = None if layer_size is None else layer_size.less(layer_parameters(anatomy), per_parameter)
    return _beside_bytes(anatomy, beside)


def _beside_bytes(anatomy: Anatomy, beside: LayerSize | None) -> Callable[[Shape], float]:
    if beside is None:
        return lambda shape: 0.0

    def held(shape: Shape) -> float:
        return sum(beside.of(layer) for index, layer in enumerate(shape.layers) if shape.leads(index))

    whole = held(anatomy.full_shape())
    return lambda shape: whole - held(shape)


def layer_parameters(anatomy: Anatomy) -> LayerSize:
    """Parameters of the first layer that is left, by its parts."""
    full = anatomy.full_shape()
    index = next(i for i in range(len(full.layers)) if full.leads(i))
    layer, without = full.layers[index], full
    for sharing in full.sharing(index):
        without = without.with_layer(sharing, LayerShape((), (), present=False))

    def beyond(heads: int, channels: int) -> int:
        kept = LayerShape(layer.heads[:heads], layer.channels[:channels])
        layers = [kept if at == index else other for at, other in enumerate(without.layers)]
        return anatomy.parameters(replace(without, layers=tuple(layers))) - anatomy.parameters(without)

    heads, channels, bare = len(layer.heads), len(layer.channels), beyond(0, 0)
    head = (beyond(heads, 0) - beyond(1, 0)) / (heads - 1) if heads > 1 else 0.0
    channel = (beyond(0, channels) - beyond(0, 1)) / (channels - 1) if channels > 1 else 0.0
    return LayerSize(
        bare=bare,
        attention=beyond(1, 0) - bare - head,
        head=head,
        ffn=beyond(0, 1) - bare - channel,
        channel=channel,
    )


def dense_reference(run: Run) -> DenseReference:
    """The dense fp32 model's measured milliseconds a call and bytes."""
    baseline = run.workspace.result("baseline")
    assert baseline is not None
    return DenseReference(reference_times(run).dense, baseline["dense_bytes"], run.spec.target.batch_size)


def search_problem(
    run: Run,
    anatomy: Anatomy,
    goal: Goal,
    *,
    trials: Callable[[Sequence[Recipe]], Sequence[Score]] | None = None,
    teaching: Teaching | None = None,
    tell: Callable[[str, int, int | None], None],
) -> SearchProblem:
    """The problem for the model of `anatomy`, dense or recovered. Looks at no holdout row."""
    exact = run.spec.focus == "accuracy"
    judged = sample(run.selection, compared_rows(run), run.spec.seed)

    @cache
    def race() -> Race:
        return _race(run, anatomy)

    def judge(shape: Shape) -> Judgement:
        run.reporter.check()
        if exact:
            return race().judge(shape)
        with anatomy.masked(shape):
            evaluation = evaluate(anatomy.model, judged, run.task, device=run.device, precision="fast")
        return judgement(run, evaluation)

    @cache
    def whole() -> Divergence:
        return Divergence(
            anatomy.model,
            judged,
            run.task,
            device=run.device,
            precision="fast",
            reporter=run.reporter,
        )

    def divergence(shape: Shape) -> float:
        answers = whole()
        with anatomy.masked(shape):
            return answers.now()

    def contest(rival: Shape, shape: Shape, bar: Bar) -> Judgement | Abandoned:
        run.reporter.check()
        return race().contest(rival, shape, bar)

    return SearchProblem(
        anatomy=anatomy,
        judge=judge,
        divergence=divergence,
        contest=contest if exact else None,
        significance=lambda shape: significance(run, anatomy, shape),
        costs=cost_model(run),
        dense=dense_reference(run),
        goal=goal,
        focus=run.spec.focus,
        allowed=frozenset(run.spec.approximations),
        trials=trials,
        teaching=teaching,
        length=run.length(),
        max_candidates=run.spec.budget.max_candidates,
        metric=run.spec.metric,
        trials_together=run.spec.budget.max_workers > 1,
        cheap_trials=not isinstance(run.asked.recovery, RecoveryOptions),
        native=run.spec.constraints.loadable == "native",
        longest=longest_sequence(run),
        start=start_recipe(run),
        group_sizes=group_sizes(run),
        tell=tell,
    )


def compared_rows(
    run: Run,
    passes: int = SEARCH_PASSES,
    share: float = SEARCH_SHARE,
    numbers: Sequence[int] = COMPARED_ROWS,
    epochs: float | None = None,
) -> int:
    """The first of `numbers` of rows that so many passes may use, by the time that the dense model takes
    for one; the last where none may. It depends on no clock, so that a run that goes on uses the same.

    `share` is of the budget; `epochs`: nor longer than so many passes of training over the training rows.
    """
    baseline = run.workspace.result("baseline")
    assert baseline is not None
    affordable = share * run.spec.budget.max_minutes * 60 / (passes * baseline["row_seconds"])
    if epochs is not None:
        affordable = min(affordable, rows_in_epochs(epochs, len(run.train), passes))
    return at_most(affordable, numbers)


def rows_in_epochs(epochs: float, training_rows: int, passes: int) -> float:
    """On how many rows so many forward passes take as long as so many passes of training."""
    return epochs * BACKWARD * training_rows / passes


def at_most(affordable: float, numbers: Sequence[int]) -> int:
    """The first of the numbers, largest first, that is affordable; the last where none is."""
    return next((rows for rows in numbers if rows <= affordable), numbers[-1])


def weighed_elements(run: Run, shape: Shape) -> list[Element]:
    """All elements of `shape` that the job's approximations may remove, or that are parts of such.

    Groups of hidden dimensions are weighed only where they may go.
    """
    width = run.dense.anatomy.hidden_size if "prune_hidden" in run.spec.approximations else 0
    return all_elements(shape, width, group_sizes(run))


def group_sizes(run: Run) -> GroupSizes:
    """As the job asks. Where word embeddings become int4, hidden groups are whole blocks of it."""
    asked, baseline = run.spec.group_sizes, run.workspace.result("baseline")
    assert baseline is not None
    if not any(step.get("embeddings") == "int4" for step in baseline["quantize"]):
        return asked
    size, block = group_size(run.dense.anatomy.hidden_size, asked.hidden), BLOCK_SIZES[-1]
    return GroupSizes(ffn=asked.ffn, hidden=-(-size // block) * block)


def significance(run: Run, anatomy: Anatomy, shape: Shape) -> Significance:
    """What the elements of `shape` weigh, by the estimator that drives the search, on training rows."""
    run.reporter.check()
    return ESTIMATORS[run.spec.significance.drives].weigh(material(run, anatomy, shape))


def material(run: Run, anatomy: Anatomy, shape: Shape, rows: int | None = None) -> Material:
    """What estimators work from: a sample of the training rows; by default, as many as searches look at."""
    drawn = sample(run.train, compared_rows(run) if rows is None else rows, run.spec.seed)
    hidden, sizes = "prune_hidden" in run.spec.approximations, group_sizes(run)
    return Material(anatomy, shape, drawn, run.task, run.device, sizes=sizes, hidden=hidden, tally=Tally())


def _race(run: Run, anatomy: Anatomy) -> Race:
    """On the selection split, or as much of it as the time allows. The published algorithm compares losses
    strictly: it gets fp32.

    At the whole model's temperature: the loss of one that is too sure of itself falls with all that goes.
    """
    changes = len(weighed_elements(run, anatomy.full_shape())) + len(tried_elements(run))
    raced = sample(run.selection, raced_rows(run, changes), run.spec.seed)
    return Race(
        anatomy,
        raced,
        run.task,
        run.device,
        start=anatomy.full_shape().applied(start_recipe(run)),
        metric=run.spec.metric,
        error_rate=run.spec.significance.error_rate,
        seed=run.spec.seed,
        temperature=temperature(anatomy.model, raced, run.task, device=run.device, reporter=run.reporter),
    )


def raced_rows(run: Run, changes: int) -> int:
    """Of the selection split: all, or as many as a pass for each change leaves time for."""
    whole = len(run.selection)
    numbers = (whole, *(rows for rows in RACED_ROWS if rows < whole))
    return compared_rows(run, min(run.spec.budget.max_candidates, changes), RACING_SHARE, numbers)


def judgement(run: Run, evaluation: Evaluation) -> Judgement:
    """The evaluation, by the job's metric."""
    return Judgement(evaluation.loss, evaluation.metrics[run.spec.metric], evaluation.losses)


def sample(split: Split, rows: int, seed: int) -> Split:
    """At most `rows` of the split, seeded, in their order."""
    if len(split) <= rows:
        return split
    chosen = np.random.default_rng(seed).choice(len(split), size=rows, replace=False)
    return split.select(np.sort(chosen))
