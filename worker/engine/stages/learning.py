"""Learning: masks trained on what a run knows, for strategies that learn what to remove."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.spec import LearnMasks, Recipe
from worker.engine.anatomy import Anatomy, Shape, anatomy_of
from worker.engine.anatomy.hidden import dimensions
from worker.engine.anatomy.slicing import sliced
from worker.engine.export.safetensors import save_folder
from worker.engine.learned.expected_cost import Bound, CostName, ExpectedCosts, FileBytes
from worker.engine.learned.folding import fold
from worker.engine.learned.lagrangian import Lagrangian
from worker.engine.learned.loss import MaskedDistillation
from worker.engine.learned.selection import unit_prices
from worker.engine.learned.trainer import MaskOptions, MaskTraining, Position
from worker.engine.learned.vib import Kind, Masks, Ranking
from worker.engine.run import Run
from worker.engine.significance.elements import head_elements
from worker.engine.significance.fisher import Fisher, FisherInformation
from worker.engine.stages.problem import (
    compared_rows,
    cost_model,
    dense_reference,
    judgement,
    material,
    priced,
    sample,
)
from worker.engine.stages.students import Trained
from worker.engine.stages.timetable import seconds_for
from worker.engine.stages.vocabulary import start_recipe, vocabulary_recipe
from worker.engine.strategies.base import Judgement
from worker.engine.strategies.goal import MARGIN, CostModel, Goal, Resource
from worker.engine.tasks import Split, evaluate
from worker.engine.training import DistilOptions, TeacherCache, recovery_learning_rate
from worker.engine.training.fine_tune import default_epochs
from worker.engine.workspace import read_json, write_json

FOLDER = "learned"
MODEL = "model"
CHECKPOINT = "training.pt"
# Shown by default, with the weights trained and without. Without, 3,200 and 6,400 left structures that were
# equally good once distilled, so it is the cheaper (`bench.masks`: SST-2, half of the parameters, one seed).
EXAMPLES = {True: 48_000, False: 3_200}
EPOCHS = (1, 400)
LEAST_SHARE_LEFT = 0.3  # of the time that is left: with next to none masks say nothing
TRAINING_SHARE = 0.9  # of the stage's time; the rest is for looking at what the masks leave
MASKED_COSTS: dict[str, CostName] = {"parameters": "parameters", "flops": "macs", "latency": "ms"}


class Learning:
    """See `strategies.base.Teaching`. Its files are in the folder of stage `search`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.folder = run.workspace.folder("search") / FOLDER
        self.folder.mkdir(exist_ok=True)
        self._costs = cost_model(run)
        self.bounds = _bounds(run)

    def room(self, shape: Shape, asked: float = 1.0) -> float:
        """Of the tightest bound; without any bound all of it."""
        rooms = (
            Bound(bound.cost, bound.whole * (1.0 - asked * bound.reduction), bound.whole).room(
                exact_cost(self.run, bound.cost, shape, self._costs)
            )
            for bound in self.bounds
        )
        return min(rooms, default=1.0)

    def lessons(self, *, weights: bool, fraction: float) -> Iterator[_Lesson]:
        """Train towards the bounds that do not hold yet."""
        run = self.run
        start = run.shape(start_recipe(run))
        anatomy = anatomy_of(sliced(run.anatomy.model, start))
        masks = Masks(anatomy, frozenset(run.spec.approximations), run.spec.seed)
        prices = unit_prices(anatomy)
        masks.begin_by(self._worth(anatomy), prices)
        rows, cache = self._rows(fraction)
        # A bound that holds already would only be pursued if other bounds let go of it.
        lagrangian = Lagrangian(
            [each for each in self.bounds if each.reduction > 0], run.spec.learned.warm_up
        )
        options = self._options(anatomy, rows, lagrangian, weights)
        # Disturbed copies may not deserve their labels any more.
        hard = DistilOptions.hard if rows is not run.lessons or run.lessons is run.train else 0.0
        training = MaskTraining(
            anatomy,
            masks,
            lagrangian,
            expected_costs(run),
            prices,
            MaskedDistillation(anatomy, masks, cache, run.task, DistilOptions(hard=hard), run.device),
            rows,
            options,
            run.device,
            run.reporter,
            self.folder / CHECKPOINT,
        )
        for position in training.run():
            run.stopwatch.save()
            if position.progress >= 1.0:
                self._announce(position)
            yield _Lesson(self, anatomy, masks, lagrangian, position, weights, len(rows))

    def clear(self) -> None:
        """Drop the checkpoint of a training that is over."""
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _worth(self, anatomy: Anatomy) -> dict[tuple[Kind, int], np.ndarray]:
        """Fisher information of heads, channels and hidden dimensions. Of whole blocks and layers it says too
        little to begin by."""
        full = anatomy.full_shape()
        fisher = fisher_information_of(self.run, anatomy)
        worth: dict[tuple[Kind, int], np.ndarray] = {}
        for index, layer in enumerate(full.layers):
            if full.leads(index):
                heads = [fisher.of(element) for element in head_elements(full, index)]
                worth["heads", index] = np.array(heads)
                worth["channels", index] = fisher.channel_scores(index)[list(layer.channels)]
        hidden = fisher.hidden_scores() if fisher.hidden is not None else None
        if hidden is not None:
            worth["hidden", 0] = hidden[list(dimensions(anatomy, full))]
        return worth

    def _rows(self, fraction: float) -> tuple[Split, TeacherCache]:
        """All that recovery learns from, or a part of the training rows, of at least one batch."""
        run, asked = self.run, self.run.spec.learned
        part = asked.data_fraction or fraction
        if part >= 1.0:
            return run.lessons, run.teacher
        count = max(min(asked.batch_size, len(run.train)), round(part * len(run.train)))
        rows = sample(run.train, count, run.spec.seed)
        return rows, TeacherCache(run.anatomy.model, rows, range(run.anatomy.layers), device=run.device)

    def _options(self, anatomy: Anatomy, rows: Split, lagrangian: Lagrangian, weights: bool) -> MaskOptions:
        """As the job asks, within the time that the stage had when it began."""
        run, asked = self.run, self.run.spec.learned
        file = self.folder / "plan.json"
        plan = read_json(file)
        if plan is None:
            seconds = TRAINING_SHARE * seconds_for(run, "search")
            plan = {"max_seconds": max(seconds, LEAST_SHARE_LEFT * run.stopwatch.left)}
            write_json(file, plan)
        removed = max(bound.reduction for bound in lagrangian.bounds) / 2  # on the way there
        return MaskOptions(
            weights=weights,
            epochs=asked.epochs or default_epochs(len(rows), EXAMPLES[weights], EPOCHS),
            batch_size=asked.batch_size,
            learning_rate=asked.learning_rate or recovery_learning_rate(anatomy.model, removed),
            mask_learning_rate=asked.mask_learning_rate,
            multiplier_learning_rate=asked.multiplier_learning_rate,
            kl_weight=asked.kl_weight,
            max_grad_norm=DistilOptions.max_grad_norm,
            weight_decay=DistilOptions.weight_decay,
            max_seconds=plan["max_seconds"],
            seed=run.spec.seed,
        )

    def _announce(self, position: Position) -> None:
        last = position.history[-1]
        self.run.reporter.event(
            "masks.trained",
            f"Masks were trained for {position.step} steps: {last['sparsity']:.1%} of the cost that is "
            f"furthest from its bound are expected to go, of {last['target']:.1%}; multipliers "
            f"{last['lambda_1']:.2f} and {last['lambda_2']:.2f}, loss {last['loss']:.3f}.",
            steps=position.step,
            seconds=position.seconds,
            history=position.history,
        )


@dataclass(frozen=True)
class _Lesson:
    """See `strategies.base.Lesson`."""

    learning: Learning
    anatomy: Anatomy
    masks: Masks
    lagrangian: Lagrangian
    position: Position
    weights: bool
    rows: int

    @property
    def progress(self) -> float:
        return self.position.progress

    @property
    def asked(self) -> float:
        warm_up = self.lagrangian.warm_up
        return min(1.0, self.progress / warm_up) if warm_up else 1.0

    @property
    def ranking(self) -> Ranking:
        return self.masks.ranking()

    @property
    def step(self) -> LearnMasks:
        run = self.learning.run
        return LearnMasks(
            weights=self.weights, rows=self.rows, steps=max(1, self.position.step), seed=run.spec.seed
        )

    def judge(self, shape: Shape) -> Judgement:
        """On as many rows of the selection split as other strategies compare shapes on."""
        run, anatomy = self.learning.run, self._folded(shape)
        rows = sample(run.selection, compared_rows(run), run.spec.seed)
        with anatomy.masked(anatomy.checked(shape)):
            evaluation = evaluate(anatomy.model, rows, run.task, device=run.device, precision="fast")
        return judgement(run, evaluation)

    def keep(self, shape: Shape) -> None:
        """Written whole, so that recovery may give back what goes."""
        folder = self.learning.folder / MODEL
        save_folder(self._folded(shape).model, self.learning.run.tokenizer, folder)

    def _folded(self, shape: Shape) -> Anatomy:
        """A copy with the masks' means in its weights."""
        anatomy = anatomy_of(copy.deepcopy(self.anatomy.model))
        fold(anatomy, self.masks, shape)
        return anatomy


def fisher_information_of(run: Run, anatomy: Anatomy) -> FisherInformation:
    """On the training rows that the search estimates significance on."""
    run.reporter.check()
    return Fisher().weigh(material(run, anatomy, anatomy.full_shape()))


def learned_model(run: Run) -> Trained | None:
    """The whole model with the weights that masks were trained with; None where no masks were."""
    searched = run.workspace.result("search")
    if searched is None:
        return None
    recipe = Recipe.model_validate(searched["recipe"])
    trained = [step for step in recipe.steps if isinstance(step, LearnMasks)]
    if not trained:
        return None
    whole = vocabulary_recipe(run).then(*start_recipe(run).steps, *trained)
    return Trained(whole, run.workspace.folder("search") / FOLDER / MODEL)


def target_bound(run: Run) -> Bound | None:
    """What `learned.target` asks; None where it asks nothing, or of a strategy that does not look at it."""
    asked = run.spec.learned
    if asked.target is None or not run.learns:
        return None
    cost, dense = MASKED_COSTS[asked.constraint], run.dense.anatomy
    match cost:
        case "parameters":
            whole = float(dense.parameters(dense.full_shape()))
        case "macs":
            whole = float(dense.macs(dense.full_shape(), run.length()))
        case _:
            whole = cost_model(run)(run.anatomy.full_shape()).ms
    return Bound(cost, whole * (1.0 - asked.target), whole)


def keeps_target(run: Run, shape: Shape) -> bool:
    """Whether a shape costs no more than `learned.target` allows, if it asks anything."""
    bound = target_bound(run)
    return bound is None or bound.room(exact_cost(run, bound.cost, shape)) >= 0.0


def exact_cost(run: Run, cost: CostName, shape: Shape, costs: CostModel | None = None) -> float:
    """Predicted milliseconds or bytes, parameters, or multiply-accumulates of one example."""
    match cost:
        case "ms" | "bytes":
            return (costs or cost_model(run))(shape).of(cost)
        case "parameters":
            return float(run.anatomy.parameters(shape))
        case "macs":
            return float(run.anatomy.macs(shape, run.length()))


def expected_costs(run: Run) -> ExpectedCosts:
    """The costs of `problem.cost_model`, and those that `learned.target` may bound, with gradients."""
    prices = priced(run)
    file = FileBytes(
        prices.whole, prices.whole_bytes, prices.per_parameter, prices.outside_more, prices.beside
    )
    return ExpectedCosts(run.anatomy, prices.table, prices.scale, file, run.length())


def _bounds(run: Run) -> tuple[Bound, ...]:
    goal = Goal.of(run.spec.constraints, dense_reference(run), margin=MARGIN)
    whole = cost_model(run)(run.shape(start_recipe(run)))
    resources: tuple[Resource, ...] = ("ms", "bytes")
    of_goal = [
        Bound(resource, limit, whole.of(resource))
        for resource in resources
        if (limit := goal.bound(resource)) is not None
    ]
    target = target_bound(run)
    return (*of_goal, target) if target is not None else tuple(of_goal)
