"""Certify: both models' files in fresh processes, on the holdout, which is opened here and only here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.spec import Recipe, Source
from worker.engine.anatomy import anatomy_of
from worker.engine.delivery import target_file
from worker.engine.export.card import CARD_FILE, CardFacts, write_card
from worker.engine.export.safetensors import load_folder
from worker.engine.measure import certificate
from worker.engine.measure.certificate import CertifiedModel, CertifyInputs, Holdout
from worker.engine.measure.holdout_report import REPORT_FILE, Answered, holdout_report
from worker.engine.origin import Origin, token_rows
from worker.engine.run import Run
from worker.engine.stages.baseline import dense_files
from worker.engine.tasks import Scorer
from worker.engine.workspace import write_json

CERTIFICATE_TURNS = 2  # times as long as a candidate is the certificate's pair timed


def certify(run: Run) -> dict[str, Any]:
    """Write certificate.json, what the holdout says row by row, and the model card."""
    searched, exported = run.workspace.result("search"), run.workspace.result("export")
    recovered = run.workspace.result("recover")
    assert searched is not None
    assert exported is not None
    assert recovered is not None
    recipe = Recipe.model_validate(exported["recipe"])
    optimized = run.workspace.folder("export") / "optimized"
    target_folder = optimized / ("onnx" if run.spec.target.runtime == "onnxruntime" else "safetensors")
    dense_holdout, own_holdout = _holdout(run, run.dense), _holdout(run, run.origin)
    model = load_folder(run.workspace.folder("recover") / recovered["folder"] / "model")
    small, whole = anatomy_of(model), run.dense.anatomy
    inputs = CertifyInputs(
        spec=run.spec,
        recipe=recipe,
        dense=CertifiedModel(
            dense_files(run)[0],
            whole.parameters(whole.full_shape()),
            whole.macs(whole.full_shape(), run.dense.length()),
        ),
        optimized=CertifiedModel(
            target_file(run, target_folder),
            small.parameters(small.full_shape()),
            small.macs(small.full_shape(), run.length()),
            own_holdout,
        ),
        holdout=dense_holdout,
        artifacts=_files(optimized),
        loadable=exported["loadable"],
        proved_infeasible=searched["proved_infeasible"],
    )
    issued = certificate.certify(inputs, run.reporter, seconds=CERTIFICATE_TURNS * run.timing_seconds)
    folder = run.workspace.folder("certify")
    report = holdout_report(
        run.task,
        Answered(dense_holdout.scorer.split, issued.dense_logits),
        Answered(own_holdout.scorer.split, issued.optimized_logits),
    )
    write_json(folder / REPORT_FILE, report)
    certified = issued.certificate
    write_json(folder / "certificate.json", certified.model_dump(mode="json"))
    facts = CardFacts(
        name=run.spec.name,
        base_model=_named(run.spec.base_model),
        dataset=_named(run.spec.dataset),
        labels=run.data.labels,
        task=run.spec.task,
    )
    for name in run.spec.exports:
        write_card(optimized / name, certified, facts, name)
    return {"constraints_met": certified.constraints_met, "verdict": certified.verdict}


def _holdout(run: Run, origin: Origin) -> Holdout:
    """As the tokenizer that goes with a model cuts it."""
    split = origin.encoded(run.data.holdout())
    ids, types = token_rows(split)
    return Holdout(ids, Scorer(run.task, run.spec.metric, split), types, split.pad_id, split.choices)


def _named(source: Source) -> str:
    """How a source is called in public: by its hub name, or by the last part of its address."""
    if source.hub:
        return source.hub if source.revision is None else f"{source.hub}@{source.revision}"
    return str(source.upload or (source.uri or source.path or "").rstrip("/").rpartition("/")[2])


def _files(folder: Path) -> dict[str, Path]:
    """What was exported, by name. The cards quote the certificate, so it cannot hold their digests."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != CARD_FILE)
    return {str(path.relative_to(folder)): path for path in files}
