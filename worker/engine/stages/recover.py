"""Recover: train the approximated model, measure its delivered file, and push on while constraints hold.

The searched structure is first brought to the time that was asked (see `sizing`), and, where much has to go,
approached in steps (see `gradual`). Each *rung* is then a recipe, distilled from the dense model, exported
for the target, scored and timed as that file on the selection split. The next rung narrows it further: to
meet a bound that it misses, or, while everything holds and accuracy is comfortable, towards the focus. Where
accuracy is what is missed, the climb goes back: as much of the structure as the bounds have room for is given
back, or else the same one is trained once more.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from models.spec import Quantize, Recipe, Reconstruct, Recover, RecoveryOptions
from worker.engine.anatomy import anatomy_of
from worker.engine.export.safetensors import load_folder, save_folder
from worker.engine.run import Run
from worker.engine.stages.fitting import (
    first_recovery_seconds,
    learning_rate,
    recovered,
    recovery_options,
    recovery_seconds,
)
from worker.engine.stages.gradual import Plan, dropped_layers, next_recipe, plan
from worker.engine.stages.learning import learned_model
from worker.engine.stages.measuring import measured_rung, report_rung
from worker.engine.stages.problem import cost_model, dense_reference, search_problem
from worker.engine.stages.reconstruct import reconstructed
from worker.engine.stages.rungs import MAX_RUNGS, Rung, best_of
from worker.engine.stages.sizing import TIMING_SHARE, granted_ms, sized
from worker.engine.stages.students import Student, Trained, student_of
from worker.engine.stages.timing import reference_times
from worker.engine.stages.vocabulary import start_recipe, vocabulary_recipe
from worker.engine.stages.widening import widened
from worker.engine.strategies.goal import MARGIN, Goal, pushed
from worker.engine.strategies.narrowing import narrowed
from worker.engine.workspace import read_json, write_json

PUSH = 0.88  # each rung towards the focus asks for this part of the costs of the one before
TIGHT = 0.04  # of `Goal.of`, where accuracy is missed: a measured time may come this close to its bound
WORTH_WIDENING = 1.02  # times the costs of what was trained: what gives back less is not tried
RESERVE_SECONDS = 45.0  # kept for export and certificate
MEASURING_SECONDS = 25.0  # of a rung, before one is known: exporting, scoring and timing its file
LEAST_TRAINING = 0.2  # of the first rung's training: with less time than that no further rung begins


def recover(run: Run) -> dict[str, Any]:
    """Climb rung by rung; answers the best one and what to export."""
    climb = _Climb(run)
    climb.approach()
    while (recipe := climb.next_recipe()) is not None:
        climb.take(recipe)
    best = climb.best()
    return {**best.to_json(), "rungs": len(climb.rungs), "folder": f"rung-{best.number}"}


class _Climb:
    """The steps towards the first rung, and the rungs so far, kept in `climb.json` after each."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.folder = run.workspace.folder("recover")
        self.file = self.folder / "climb.json"
        stored: dict[str, Any] = {
            "first": None,
            "plan": None,
            "steps": [],
            "rungs": [],
            "timing_seconds": 0.0,
        }
        stored |= read_json(self.file) or {}
        self.first = None if stored["first"] is None else Recipe.model_validate(stored["first"])
        self.plan = None if stored["plan"] is None else Plan.from_json(stored["plan"])
        self.steps = [Recipe.model_validate(step) for step in stored["steps"]]
        self.rungs = [Rung.from_json(document) for document in stored["rungs"]]
        self.timing_seconds: float = stored["timing_seconds"]

    def approach(self) -> None:
        """Size what the search ended with, and come to it in as many steps as are planned."""
        if self.first is None:
            searched = self.run.workspace.result("search")
            assert searched is not None
            recipe = Recipe.model_validate(searched["recipe"])
            fitting = sized(self.run, recipe, self.folder / "sizing", self._tell)
            self.first = vocabulary_recipe(self.run).then(*fitting.recipe.steps)
            self.timing_seconds = fitting.timing_seconds
            self._save()
        if self.plan is None:
            self.plan = plan(self.run, self.first, self._seconds())
            self._save()
            if self.plan.goals:
                self._announce(self.plan)
        if self.rungs or not self.plan.goals:
            return
        while len(self.steps) < len(self.plan.goals) - 1:
            self._step(self.plan)
        self.first = self._towards(self.plan.goals[-1])
        self.plan = Plan((), 0.0)
        self._save()

    def next_recipe(self) -> Recipe | None:
        """The structure of the next rung, or None when the climb is over."""
        if not self.rungs:
            return self.first
        last = self.rungs[-1]
        if not self._may_go_on(last):
            return None
        if last.too_costly or last.comfortable:
            return self._narrowed(last)
        if any(rung.comfortable and not rung.violations for rung in self.rungs):
            return None  # it went too far, and there is one to deliver
        return self._widened(last) or self._again(last)

    def take(self, recipe: Recipe) -> None:
        """Train, deliver and measure one more rung."""
        number = len(self.rungs)
        began = self.run.stopwatch.used
        student, recipe = self._trained(recipe)
        training_seconds = self.run.stopwatch.used - began
        folder = self.folder / f"rung-{number}"
        rung = measured_rung(self.run, number, student, recipe, folder, training_seconds)
        save_folder(student, self.run.tokenizer, folder / "model")
        self.rungs.append(rung)
        self._save()
        report_rung(self.run, rung, student)

    def best(self) -> Rung:
        """What the climb ends with."""
        return best_of(self.rungs, self.run.spec.focus)

    def _save(self) -> None:
        document = {
            "first": None if self.first is None else self.first.model_dump(mode="json"),
            "plan": None if self.plan is None else self.plan.to_json(),
            "steps": [step.model_dump(mode="json") for step in self.steps],
            "rungs": [rung.to_json() for rung in self.rungs],
            "timing_seconds": self.timing_seconds,
        }
        write_json(self.file, document)
        self.run.stopwatch.save()

    def _announce(self, planned: Plan) -> None:
        self.run.reporter.event(
            "recover.gradual",
            f"Recovery is gradual: {len(planned.goals) - 1} steps before the structure itself, "
            f"{planned.seconds:.0f} s of training each.",
            steps=len(planned.goals) - 1,
            seconds=planned.seconds,
        )

    def _step(self, planned: Plan) -> None:
        """Remove a little more, and train."""
        number = len(self.steps)
        self._tell("approaching the structure", number, len(planned.goals) - 1)
        student = student_of(self.run, self._towards(planned.goals[number]), self._known())
        model, recipe = self._distilled(student, planned.seconds)
        save_folder(model, self.run.tokenizer, self.folder / f"step-{number}")
        self.steps.append(recipe)
        self._save()

    def _towards(self, goal: Goal) -> Recipe:
        """What was trained last, or the model that the search began with, brought to `goal`."""
        assert self.first is not None
        known = self._known()
        if known:
            recipe, anatomy = known[-1].recipe, anatomy_of(known[-1].load())
        else:
            recipe, anatomy = (
                vocabulary_recipe(self.run).then(*start_recipe(self.run).steps),
                self.run.anatomy,
            )
        gone = dropped_layers(recipe)
        layers = [step for step in dropped_layers(self.first) if step not in gone]
        return next_recipe(self.run, anatomy, recipe, layers, goal, self._tell)

    def _narrowed(self, last: Rung) -> Recipe | None:
        """The recipe narrowed to the next goal, or None when there is none or nothing is left to remove."""
        goal = self._next_goal(last)
        if goal is None:
            return None
        student = load_folder(self.folder / f"rung-{last.number}" / "model")
        problem = search_problem(self.run, anatomy_of(student), goal, tell=self._tell)
        recipe = narrowed(problem, last.recipe)
        return None if recipe == last.recipe else recipe

    def _widened(self, last: Rung) -> Recipe | None:
        """The recipe with as much given back as the bounds have room for; None where that is next to nothing.

        Where accuracy is missed, and not only near to it, measured costs may come close to their bounds.
        """
        run, costs = self.run, cost_model(self.run)
        if run.spec.focus == "accuracy":
            return None
        margin = TIGHT if last.violations else MARGIN
        goal = Goal.of(run.spec.constraints, dense_reference(run), margin=margin)
        predicted = costs(run.shape(last.recipe))
        whole = reference_times(run).whole
        goal = Goal(
            ms=None if goal.ms is None else granted_ms(predicted.ms, last.ms, goal.ms, whole),
            bytes=None if goal.bytes is None else goal.bytes * predicted.bytes / last.size_bytes,
        )
        structure = (
            step for step in last.recipe.steps if not isinstance(step, Recover | Reconstruct | Quantize)
        )
        recipe = widened(run, Recipe(steps=tuple(structure)), goal)
        wider = costs(run.shape(recipe))
        gains = max(wider.ms / predicted.ms, wider.bytes / predicted.bytes) >= WORTH_WIDENING
        tried = [run.shape(rung.recipe) for rung in self.rungs]
        return recipe if gains and run.shape(recipe) not in tried else None

    def _again(self, last: Rung) -> Recipe | None:
        """The same recipe to be trained further: tried once for a structure."""
        tried = [self.run.shape(rung.recipe) for rung in self.rungs].count(self.run.shape(last.recipe))
        trains = isinstance(self.run.spec.recovery, RecoveryOptions)
        return last.recipe if tried == 1 and trains else None

    def _may_go_on(self, last: Rung) -> bool:
        training = LEAST_TRAINING * self.rungs[0].training_seconds
        left = self.run.stopwatch.left - RESERVE_SECONDS
        return len(self.rungs) < MAX_RUNGS and left > training + last.measuring_seconds

    def _next_goal(self, last: Rung) -> Goal | None:
        """Tighter bounds: where measurement missed one, or towards the focus while all hold."""
        run, spec = self.run, self.run.spec
        goal = Goal.of(spec.constraints, dense_reference(run), margin=MARGIN)
        predicted = cost_model(run)(run.shape(last.recipe))
        if last.too_costly:
            # The table was wrong by this factor: ask it for as much less.
            error = max(1.0, last.ms / predicted.ms), max(1.0, last.size_bytes / predicted.bytes)
            return Goal(
                ms=None if goal.ms is None else min(goal.ms / error[0], predicted.ms * 0.97),
                bytes=None if goal.bytes is None else goal.bytes / error[1],
            )
        accuracy = spec.constraints.accuracy.model_dump(exclude={"confidence"}, exclude_none=True)
        if spec.focus == "accuracy" or not accuracy:
            return None
        return pushed(goal, predicted, spec.focus, PUSH)

    def _trained(self, recipe: Recipe) -> tuple[PreTrainedModel, Recipe]:
        """The student of a recipe, distilled if that helps on the selection split."""
        run = self.run
        if run.spec.recovery == "reconstruct":
            return reconstructed(run, recipe)[:2]
        student = student_of(run, recipe, self._known(), learned_model(run))
        if run.spec.recovery == "off" or run.shape(recipe) == run.anatomy.full_shape():
            return student.model, student.recipe
        return self._distilled(student, self._seconds())

    def _distilled(self, student: Student, seconds: float) -> tuple[PreTrainedModel, Recipe]:
        run = self.run
        options = recovery_options(run, learning_rate(run, student.model, student.before), seconds)
        _, fitted = recovered(run, student.model, options, stage="recover")
        if fitted is None:
            return student.model, student.recipe
        step = Recover(epochs=fitted.epochs, learning_rate=fitted.learning_rate, seed=run.spec.seed)
        return student.model, student.recipe.then(step)

    def _known(self) -> list[Trained]:
        """What was trained so far."""
        steps = [(recipe, self.folder / f"step-{number}") for number, recipe in enumerate(self.steps)]
        rungs = [(rung.recipe, self.folder / f"rung-{rung.number}" / "model") for rung in self.rungs]
        return [Trained(recipe, folder) for recipe, folder in steps + rungs]

    def _seconds(self) -> float:
        """What the training of the next rung may take.

        It leaves time for measuring what was trained, and for what follows recovery.
        """
        if self.rungs:
            return recovery_seconds(self.run, RESERVE_SECONDS + self.rungs[-1].measuring_seconds)
        # What sizing took for a timing, this machine will take for another one.
        measuring = max(MEASURING_SECONDS, self.timing_seconds / TIMING_SHARE)
        return first_recovery_seconds(self.run, RESERVE_SECONDS + measuring, measuring)

    def _tell(self, message: str, step: int, total: int | None) -> None:
        self.run.progress("recover", step, total, message)
