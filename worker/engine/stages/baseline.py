"""Baseline: the dense model for the task, its score on the selection split, its time and size."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.spec import Candidate, CandidateMeasurements, Quantize, Recipe
from worker.engine.anatomy.slicing import sliced
from worker.engine.approximations.quantize import block_size
from worker.engine.delivery import Delivered, deliver, target_file
from worker.engine.errors import ModelError
from worker.engine.export.safetensors import save_folder
from worker.engine.measure.latency import compare
from worker.engine.measure.probing import ModelFile
from worker.engine.prepare import load_model, load_tokenizer
from worker.engine.run import Run
from worker.engine.stages.fitting import baseline_options
from worker.engine.stages.prepare import base_model
from worker.engine.stages.timing import note_times
from worker.engine.stages.vocabulary import (
    Table,
    best_table,
    lower_ranks,
    smaller_vocabularies,
    thinner_ffn,
    wants_lower_rank,
    wants_smaller_table,
)
from worker.engine.tasks import evaluate
from worker.engine.training import fine_tune

REASONS = {
    "dense": "the dense model",
    "dense-int8": "the dense model in int8 and nothing else",
    "dense-int8-int4": "the dense model in int8, its word embeddings in int4, and nothing else",
}

SHARE_OF_DROP = 0.25  # of the accuracy drop that is allowed: what int4 embeddings may cost
DENSE_LOGITS = "dense_logits.npy"


def baseline(run: Run) -> dict[str, Any]:
    """Fine-tune where needed; export in the target's runtime as it is, quantized, and, where that is wanted,
    with smaller tables of word embeddings; measure all of these."""
    trained_here = _trained_for_the_task(run)
    began = time.perf_counter()
    evaluation = evaluate(
        run.dense.anatomy.model,
        run.dense.selection,
        run.task,
        batch_size=128,
        device=run.device,
        reporter=run.reporter,
    )
    row_seconds = (time.perf_counter() - began) / len(run.dense.selection)
    run.progress("baseline", 0, 2, "exporting the dense model for the target")
    delivered = _delivered(run)
    precision = _precision(run, delivered)
    dense = delivered["dense"]
    trial = _Tables(run, precision, delivered[precision])
    if wants_smaller_table(run, delivered[precision], dense.size_bytes):
        trial.try_smaller(dense.size_bytes)
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
    whole = forms[best]
    note_times(run, comparison, dense="dense", whole=best)
    for number, (name, each) in enumerate(forms.items()):
        reason = REASONS.get(name, f"{REASONS[precision]}, with smaller tables or thinner matrices")
        ms, speedup = comparison[name].fastest, comparison.speedup("dense", name)
        run.reporter.candidate(_candidate(run, number, reason, each, ms, speedup, dense))
    np.save(run.workspace.folder("baseline") / DENSE_LOGITS, dense.logits)
    return {
        "fine_tuned": trained_here,
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


def _forms(run: Run) -> dict[str, Recipe]:
    """The precisions that the dense model is measured in."""
    forms = {"dense": Recipe()}
    if run.quantizes:
        forms["dense-int8"] = Recipe(steps=(Quantize(),))
        if block_size(run.dense.anatomy.model.get_input_embeddings().embedding_dim) is not None:
            forms["dense-int8-int4"] = Recipe(steps=(Quantize(embeddings="int4"),))
    return forms


def _precision(run: Run, delivered: dict[str, Delivered]) -> str:
    """Which precision to deliver: int4 embeddings unless they cost more than a quarter of the drop allowed.

    Judged on the selection split, against int8 alone.
    """
    int8, int4 = delivered.get("dense-int8"), delivered.get("dense-int8-int4")
    if int8 is None:
        return "dense"
    accuracy, dense = run.spec.constraints.accuracy, delivered["dense"].metric
    allowed = max((accuracy.max_relative_drop or 0.0) * abs(dense), accuracy.max_absolute_drop or 0.0)
    if int4 is None or int4.metric < int8.metric - SHARE_OF_DROP * allowed:
        return "dense-int8"
    return "dense-int8-int4"


def _delivered(run: Run) -> dict[str, Delivered]:
    folder = run.workspace.folder("baseline")
    return {
        name: deliver(run, run.dense.anatomy.model, recipe, folder / name, run.dense)
        for name, recipe in _forms(run).items()
    }


class _Tables:
    """Tables of word embeddings on trial: `best` names the one to begin with, `tried` holds the smaller ones.

    `precision` names the dense model in the precision that is delivered, which is `whole`.
    """

    def __init__(self, run: Run, precision: str, whole: Delivered) -> None:
        self._run, self._whole = run, whole
        self.best = precision
        self.tables = {precision: Table(run.dense)}
        self.tried: dict[str, Delivered] = {}

    def try_smaller(self, dense_bytes: int) -> None:
        """First with fewer rows, then the best so far at a lower rank, then with a thinner FFN."""
        self._offer(smaller_vocabularies(self._run))
        for lower in (lower_ranks, thinner_ffn):
            best = self.tried.get(self.best, self._whole)
            if not wants_lower_rank(self._run, best, dense_bytes):
                return
            self._offer(lower(self._run, self.best, self.tables[self.best]))

    def _offer(self, more: dict[str, Table]) -> None:
        delivered = _with_tables(self._run, self._whole.recipe, more)
        before = {self.best: self.tried[self.best]} if self.best in self.tried else {}
        self.tables |= more
        self.tried |= delivered
        self.best = best_table(self._run, self._whole, before | delivered) or self.best


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


def _trained_for_the_task(run: Run) -> bool:
    """Leave the dense model in `run.dense_folder`; answers whether it was trained here."""
    base = base_model(run)
    tokenizer = load_tokenizer(base)
    model, has_head = load_model(base, run.task, labels=run.data.labels, seed=run.spec.seed)
    wanted = run.spec.fine_tune if run.spec.fine_tune is not None else not has_head
    if wanted:
        _fine_tune(run, model, tokenizer)
    elif not has_head:
        raise ModelError(
            "fine_tune is false, but the base model has no head trained for these labels",
            remedy="leave fine_tune out, or give a model that was fine-tuned for this task",
            pointer="/fine_tune",
        )
    save_folder(model, tokenizer, run.dense_folder)
    return wanted


def _fine_tune(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    train = run.task.encode(run.data.train(), tokenizer, max_length=run.max_length)
    selection = run.task.encode(run.data.selection(), tokenizer, max_length=run.max_length)
    fine_tune(
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
            metric=each.metric,
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
