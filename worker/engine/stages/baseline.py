"""Baseline: the dense model for the task, its score on the selection split, its time and size."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.spec import LOWER_IS_BETTER, Candidate, CandidateMeasurements, Recipe, metric_value
from worker.engine.anatomy.slicing import sliced
from worker.engine.delivery import Delivered, deliver, target_file
from worker.engine.errors import ModelError
from worker.engine.export.safetensors import save_folder
from worker.engine.measure.latency import compare
from worker.engine.measure.probing import ModelFile
from worker.engine.prepare import load_model, load_tokenizer
from worker.engine.run import Run
from worker.engine.stages.fitting import baseline_options
from worker.engine.stages.precision import mixed_precision, plain_forms, plain_precision
from worker.engine.stages.prepare import base_model
from worker.engine.stages.ranks import lower_ranks, thinner_ffn, wants_lower_rank
from worker.engine.stages.timing import note_times
from worker.engine.stages.vocabulary import (
    Table,
    best_table,
    smaller_vocabularies,
    wants_smaller_table,
)
from worker.engine.tasks import evaluate
from worker.engine.training import FitResult, fine_tune

PRECISIONS = {
    "dense": "the dense model",
    "dense-int8": "the dense model in int8",
    "dense-int8-int4": "the dense model in int8, its word embeddings in int4",
    "dense-int8-w4a8": "the dense model in int8, its layers' weights stored in 4 bits",
    "dense-int8-int4-w4a8": "the dense model in int8, its weights stored in 4 bits",
}

DENSE_LOGITS = "dense_logits.npy"


def baseline(run: Run) -> dict[str, Any]:
    """Fine-tune where needed; export in the target's runtime as it is, quantized, and, where that is wanted,
    with smaller tables of word embeddings; measure all of these."""
    trained = _trained_for_the_task(run)
    began = time.perf_counter()
    evaluation = evaluate(
        run.dense.anatomy.model,
        run.dense.selection,
        run.task,
        device=run.device,
        reporter=run.reporter,
    )
    row_seconds = (time.perf_counter() - began) / len(run.dense.selection)
    run.progress("baseline", 0, 2, "exporting the dense model for the target")
    delivered = _delivered(run)
    precision = plain_precision(run, delivered)
    mixed = mixed_precision(run, precision, delivered)
    precision, delivered = next(iter(mixed), precision), delivered | mixed
    dense = delivered["dense"]
    trial = _Tables(run, precision, delivered[precision], dense)
    if wants_smaller_table(run, delivered[precision], dense.size_bytes):
        trial.try_smaller()
    best = trial.best
    run.progress("baseline", 1, 2, "measuring the dense model on the target")
    forms = delivered | trial.tried
    comparison = compare(
        {name: each.file for name, each in forms.items()},
        run.dense.timed_inputs(),
        own_inputs={name: trial.tables[name].origin.timed_inputs() for name in trial.tried},
        threads=run.threads,
        seconds=run.timing_seconds,
        on_round=run.reporter.check,
    )
    if told := learnt_nothing(run, dense.metric):
        run.reporter.event("baseline.learnt_nothing", told)
    whole = forms[best]
    note_times(run, comparison, dense="dense", whole=best)
    for number, (name, each) in enumerate(forms.items()):
        reason = _reason(name, precision)
        ms, speedup = comparison[name].fastest, comparison.speedup("dense", name)
        run.reporter.candidate(_candidate(run, number, reason, each, ms, speedup, dense))
    np.save(run.workspace.folder("baseline") / DENSE_LOGITS, dense.logits)
    return {
        "fine_tuned": trained is not None,
        "cut_short": cut_short(run, trained),
        "metric": evaluation.metrics[run.spec.metric],
        "loss": evaluation.loss,
        "row_seconds": row_seconds,
        "delivered_metric": dense.metric,
        "dense_bytes": dense.size_bytes,
        "whole_bytes": whole.size_bytes,
        "whole": best,
        "quantize": [step.model_dump(mode="json") for step in delivered[precision].recipe.steps],
        "vocabulary": trial.tables[best].origin.name,
        "start": trial.tables[best].start.model_dump(mode="json")["steps"],
        "candidates": len(forms),
    }


def dense_files(run: Run) -> tuple[ModelFile, ModelFile]:
    """The dense model's fp32 file, and its file in the precision that will be delivered."""
    measured, folder = run.workspace.result("baseline"), run.workspace.folder("baseline")
    assert measured is not None
    return target_file(run, folder / "dense"), target_file(run, folder / measured["whole"])


def quantization(run: Run) -> Recipe:
    """The step that quantizes what is delivered, as the baseline chose it; empty where none may."""
    measured = run.workspace.result("baseline")
    assert measured is not None
    return Recipe.model_validate({"steps": measured["quantize"]})


def dense_logits(run: Run) -> NDArray[np.float32]:
    """What the delivered dense model answers on the selection split, as `Delivered.logits`."""
    return np.asarray(np.load(run.workspace.folder("baseline") / DENSE_LOGITS, allow_pickle=False))


def _delivered(run: Run) -> dict[str, Delivered]:
    folder = run.workspace.folder("baseline")
    return {
        name: deliver(run, run.dense.anatomy.model, recipe, folder / name, run.dense)
        for name, recipe in plain_forms(run).items()
    }


class _Tables:
    """Tables of word embeddings on trial: `best` names the one to begin with, `tried` holds the smaller ones.

    `precision` names the dense model in the precision that is delivered, which is `whole`.
    """

    def __init__(self, run: Run, precision: str, whole: Delivered, dense: Delivered) -> None:
        self._run, self._whole, self._dense = run, whole, dense
        self.best = precision
        self.tables = {precision: Table(run.dense)}
        self.tried: dict[str, Delivered] = {}

    def try_smaller(self) -> None:
        """First with fewer rows, then the best so far at a lower rank, then with a thinner FFN."""
        self._offer(smaller_vocabularies(self._run))
        for lower in (lower_ranks, thinner_ffn):
            best = self.tried.get(self.best, self._whole)
            if not wants_lower_rank(self._run, best, self._dense.size_bytes):
                return
            self._offer(lower(self._run, self.best, self.tables[self.best]))

    def _offer(self, more: dict[str, Table]) -> None:
        delivered = _with_tables(self._run, self._whole.recipe, more)
        before = {self.best: self.tried[self.best]} if self.best in self.tried else {}
        self.tables |= more
        self.tried |= delivered
        self.best = best_table(self._run, self._whole, self._dense, before | delivered) or self.best


def _with_tables(run: Run, precision: Recipe, tables: dict[str, Table]) -> dict[str, Delivered]:
    """The dense model with each of the tables, by its name, in the precision that is delivered."""
    folder = run.workspace.folder("baseline")
    delivered = {}
    for name, table in tables.items():
        anatomy = table.origin.informed_anatomy if table.start.steps else table.origin.anatomy
        model = sliced(anatomy.model, anatomy.shape(table.start))
        recipe = table.recipe.then(*precision.steps)
        delivered[name] = deliver(run, model, recipe, folder / name, table.origin)
    return delivered


def _reason(name: str, precision: str) -> str:
    """What a form of the dense model is, in words."""
    if name in PRECISIONS:
        return PRECISIONS[name] if name == "dense" else f"{PRECISIONS[name]}, and nothing else"
    base = PRECISIONS.get(precision, "the dense model in int8, some matrices in other precisions")
    return base if name == precision else f"{base}, with smaller tables or thinner matrices"


def _trained_for_the_task(run: Run) -> FitResult | None:
    """Leave the dense model in `run.dense_folder`; answers its training, None where it came trained."""
    base = base_model(run)
    tokenizer = load_tokenizer(base)
    model, has_head = load_model(base, run.task, labels=run.data.labels, seed=run.spec.seed)
    wanted = run.spec.fine_tune if run.spec.fine_tune is not None else not has_head
    fitted = _fine_tune(run, model, tokenizer) if wanted else None
    if not wanted and not has_head:
        raise ModelError(
            "fine_tune is false, but the base model has no head trained for these labels",
            remedy="leave fine_tune out, or give a model that was fine-tuned for this task",
            pointer="/fine_tune",
        )
    save_folder(model, tokenizer, run.dense_folder)
    return fitted


def cut_short(run: Run, fitted: FitResult | None) -> str | None:
    """What the user should know where the budget ended the training of the dense model."""
    if fitted is None or fitted.stopped_by != "time":
        return None
    told = (
        f"The dense model's fine-tuning was cut short by budget.max_minutes after {fitted.steps} steps and "
        f"{fitted.seconds:.0f} s: with more minutes it may be more accurate, and so may all that comes of it."
    )
    run.reporter.event("baseline.cut_short", told, steps=fitted.steps)
    return told


def learnt_nothing(run: Run, score: float) -> str | None:
    """What the user should know where the dense model's score is one that needs no model at all."""
    if score > 0 or run.spec.metric in LOWER_IS_BETTER:
        return None
    return (
        f"The dense model's {run.spec.metric} is {score:.4g} on the selection split: it has not learnt the "
        "task, and how much of that is kept says nothing. Allow more minutes, or give `baseline` another "
        "learning rate."
    )


def _fine_tune(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> FitResult:
    train = run.task.encode(run.data.train(), tokenizer, max_length=run.max_length)
    selection = run.task.encode(run.data.selection(), tokenizer, max_length=run.max_length)
    fitted = fine_tune(
        model,
        train,
        selection,
        run.task,
        baseline_options(run),
        device=run.device,
        reporter=run.reporter,
        stage="baseline",
    )
    model.to("cpu")
    model.eval()
    return fitted


def _candidate(
    run: Run, number: int, reason: str, each: Delivered, ms: float, speedup: float, dense: Delivered
) -> Candidate:
    anatomy = run.dense.anatomy
    shape = anatomy.shape(each.recipe)
    return Candidate(
        number=number,
        stage="baseline",
        recipe=each.recipe,
        measurements=CandidateMeasurements(
            metric=metric_value(run.spec.metric, each.metric),
            parameters=anatomy.parameters(shape),
            macs=anatomy.macs(shape, run.dense.length()),
            size_bytes=each.size_bytes,
            latency_ms=ms,
            latency_source="measured",
            speedup=speedup,
            size_reduction=dense.size_bytes / each.size_bytes,
        ),
        accepted=True,
        reason=reason,
    )
