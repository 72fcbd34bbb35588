"""Recover: train the approximated model, measure its delivered file, and push on while constraints hold.

The searched structure is first brought to the time that was asked (see `sizing`). Each *rung* is then a
recipe, distilled from the dense model, exported for the target, scored and timed as that file on the
selection split. The next rung narrows it further: to meet a bound that it misses, or, while everything
holds and accuracy is comfortable, towards the focus. The first rung that is not ends the climb.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from models.spec import Candidate, CandidateMeasurements, Quantize, Recipe, Recover
from worker.engine.anatomy import Shape, anatomy_of
from worker.engine.anatomy.slicing import sliced
from worker.engine.delivery import Delivered, deliver
from worker.engine.export.safetensors import load_folder, save_folder
from worker.engine.measure.intervals import PairedBootstrap, paired_bootstrap
from worker.engine.measure.verdict import Measured, evaluate_constraints
from worker.engine.run import Run
from worker.engine.stages.baseline import dense_files, dense_logits, quantization
from worker.engine.stages.fitting import learning_rate, recovered, recovery_options
from worker.engine.stages.problem import MARGIN, cost_model, dense_reference, search_problem
from worker.engine.stages.rungs import Rung, best_of, has_room
from worker.engine.stages.sizing import sized
from worker.engine.stages.timing import timed
from worker.engine.stages.vocabulary import vocabulary_recipe
from worker.engine.strategies.goal import Goal
from worker.engine.strategies.narrowing import narrow
from worker.engine.workspace import read_json, write_json

MAX_RUNGS = 6
PUSH = 0.88  # each rung towards the focus asks for this part of the costs of the one before
RESERVE_SECONDS = 45.0  # kept for export and certificate
MEASURING_SECONDS = 25.0  # of a rung, before one is known: exporting, scoring and timing its file
LEAST_TRAINING = 0.2  # of the first rung's training: with less time than that no further rung begins


def recover(run: Run) -> dict[str, Any]:
    """Climb rung by rung; answers the best one and what to export."""
    climb = _Climb(run)
    while (recipe := climb.next_recipe()) is not None:
        climb.take(recipe)
    best = climb.best()
    return {**best.to_json(), "rungs": len(climb.rungs), "folder": f"rung-{best.number}"}


class _Climb:
    """The rungs so far, kept in `climb.json` after each."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.folder = run.workspace.folder("recover")
        self.file = self.folder / "climb.json"
        stored = read_json(self.file) or {"first": None, "rungs": []}
        self.first = None if stored["first"] is None else Recipe.model_validate(stored["first"])
        self.rungs = [Rung.from_json(document) for document in stored["rungs"]]

    def next_recipe(self) -> Recipe | None:
        """The structure of the next rung, or None when the climb is over."""
        if not self.rungs:
            return self._first_recipe()
        last = self.rungs[-1]
        if not self._may_go_on(last):
            return None
        if last.too_costly or last.comfortable:
            return self._narrowed(last)
        # Training further is the one remedy left for accuracy, and it is tried once for a structure.
        tried = [self._structure(rung) for rung in self.rungs].count(self._structure(last))
        nothing_yet = not any(rung.comfortable and not rung.violations for rung in self.rungs)
        return last.recipe if tried == 1 and nothing_yet and self.run.spec.recovery != "off" else None

    def take(self, recipe: Recipe) -> None:
        """Train, deliver and measure one more rung."""
        number = len(self.rungs)
        began = self.run.stopwatch.used
        student, recipe = self._trained(recipe, number)
        trained = self.run.stopwatch.used
        folder = self.folder / f"rung-{number}"
        rungs = [
            self._measured(number, student, form, folder / name, training_seconds=trained - began)
            for name, form in self._forms(recipe).items()
        ]
        rung = best_of(rungs, self.run.spec.focus)
        save_folder(student, self.run.tokenizer, folder / "model")
        self.rungs.append(rung)
        self._save()
        self._report(rung, student)

    def best(self) -> Rung:
        """What the climb ends with."""
        return best_of(self.rungs, self.run.spec.focus)

    def _first_recipe(self) -> Recipe:
        """What the search ended with, brought to the time that was asked."""
        if self.first is None:
            searched = self.run.workspace.result("search")
            assert searched is not None
            recipe = Recipe.model_validate(searched["recipe"])
            recipe = sized(self.run, recipe, self.folder / "sizing", self._tell)
            self.first = vocabulary_recipe(self.run).then(*recipe.steps)
            self._save()
        return self.first

    def _save(self) -> None:
        document = {
            "first": None if self.first is None else self.first.model_dump(mode="json"),
            "rungs": [rung.to_json() for rung in self.rungs],
        }
        write_json(self.file, document)
        self.run.stopwatch.save()

    def _narrowed(self, last: Rung) -> Recipe | None:
        """The recipe narrowed to the next goal, or None when there is none or nothing is left to remove."""
        goal = self._next_goal(last)
        if goal is None:
            return None
        student = load_folder(self.folder / f"rung-{last.number}" / "model")
        problem = search_problem(self.run, anatomy_of(student), goal, tell=self._tell)
        steps = [recipe for recipe, _ in narrow(problem, last.recipe)]
        return steps[-1] if steps else None

    def _structure(self, rung: Rung) -> Shape:
        return self.run.shape(rung.recipe)

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
        if spec.focus == "speed":
            return replace(goal, ms=predicted.ms * PUSH)
        return replace(goal, bytes=predicted.bytes * PUSH)

    def _trained(self, recipe: Recipe, number: int) -> tuple[PreTrainedModel, Recipe]:
        """The student of a recipe, distilled if that helps on the selection split."""
        run = self.run
        before = load_folder(self.folder / f"rung-{number - 1}" / "model") if number else run.anatomy.model
        student = sliced(before, anatomy_of(before).shape(recipe))
        if run.spec.recovery == "off" or run.shape(recipe) == run.anatomy.full_shape():
            return student, recipe
        measuring = self.rungs[-1].measuring_seconds if self.rungs else MEASURING_SECONDS
        rate = learning_rate(run, student, before)
        options = recovery_options(run, rate, reserve=RESERVE_SECONDS + measuring)
        _, fitted = recovered(run, student, options, stage="recover")
        if fitted is None:
            return student, recipe
        step = Recover(epochs=fitted.epochs, learning_rate=fitted.learning_rate, seed=run.spec.seed)
        return student, recipe.then(step)

    def _forms(self, recipe: Recipe) -> dict[str, Recipe]:
        """How the rung may be delivered. With accuracy focus quantization has to earn its place."""
        plain = Recipe(steps=tuple(step for step in recipe.steps if not isinstance(step, Quantize)))
        quantized = plain.then(*quantization(self.run).steps)
        forms = {"quantized": quantized} if quantized != plain else {"fp32": plain}
        return {**forms, "fp32": plain} if self.run.spec.focus == "accuracy" else forms

    def _measured(
        self,
        number: int,
        student: PreTrainedModel,
        recipe: Recipe,
        folder: Path,
        *,
        training_seconds: float,
    ) -> Rung:
        run = self.run
        began = run.stopwatch.used
        self._tell("measuring the recovered model on the target", number, None)
        delivered = deliver(run, student, recipe, folder)
        times = timed(run, delivered.file, *dense_files(run))
        baseline = run.workspace.result("baseline")
        assert baseline is not None
        results = evaluate_constraints(
            run.spec.constraints,
            Measured(
                dense_metric=baseline["delivered_metric"],
                optimized_metric=delivered.metric,
                dense_bytes=baseline["dense_bytes"],
                optimized_bytes=delivered.size_bytes,
                speedup=times.speedup,
                p50=times.p50,
                p95=times.p95,
                throughput=times.throughput,
                paired=self._paired(delivered),
            ),
        )
        violations = {r.name: _miss(r.required, r.measured) for r in results if not r.met}
        return Rung(
            number=number,
            recipe=recipe,
            metric=delivered.metric,
            speedup=times.speedup,
            ms=times.ms,
            size_bytes=delivered.size_bytes,
            violations=violations,
            comfortable=not any(name.startswith("accuracy.") for name in violations)
            and has_room(run.spec.constraints.accuracy, baseline["delivered_metric"], delivered.metric),
            training_seconds=training_seconds,
            measuring_seconds=run.stopwatch.used - began,
        )

    def _paired(self, delivered: Delivered) -> PairedBootstrap | None:
        """The paired bootstrap, where the accuracy constraint asks for a confidence level."""
        run = self.run
        if run.spec.constraints.accuracy.confidence == "point":
            return None
        scorer = run.scorer
        return paired_bootstrap(
            scorer,
            run.dense.scorer.marks(dense_logits(run)),
            scorer.marks(delivered.logits),
            seed=run.spec.seed,
        )

    def _report(self, rung: Rung, student: PreTrainedModel) -> None:
        run = self.run
        searched = run.workspace.result("search")
        baseline = run.workspace.result("baseline")
        assert searched is not None
        assert baseline is not None
        anatomy = anatomy_of(student)
        run.reporter.candidate(
            Candidate(
                number=searched["candidates"] + rung.number,
                stage="recover",
                recipe=rung.recipe,
                measurements=CandidateMeasurements(
                    metric=rung.metric,
                    parameters=anatomy.parameters(anatomy.full_shape()),
                    macs=anatomy.macs(anatomy.full_shape(), run.length()),
                    size_bytes=rung.size_bytes,
                    latency_ms=rung.ms,
                    latency_source="measured",
                    speedup=rung.speedup,
                    size_reduction=baseline["dense_bytes"] / rung.size_bytes,
                ),
                accepted=not rung.violations,
                reason="all constraints hold on the selection split"
                if not rung.violations
                else "missed on the selection split: " + ", ".join(rung.violations),
            )
        )

    def _tell(self, message: str, step: int, total: int | None) -> None:
        self.run.progress("recover", step, total, message)


def _miss(required: float, measured: float) -> float:
    """How far a constraint is missed, relative to what it asks."""
    return abs(measured - required) / max(abs(required), 1e-3)
