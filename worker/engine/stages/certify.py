"""Certify: both models' files in fresh processes, on the holdout, which is opened here and only here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.spec import Recipe
from worker.engine.anatomy import anatomy_of
from worker.engine.delivery import target_file
from worker.engine.export.card import CARD_FILE, CardFacts, write_card
from worker.engine.export.safetensors import load_folder
from worker.engine.measure import certificate
from worker.engine.measure.certificate import CertifiedModel, CertifyInputs, Holdout
from worker.engine.measure.holdout_report import REPORT_FILE, Answered, holdout_report
from worker.engine.origin import Origin, token_rows
from worker.engine.report.redaction import public_name
from worker.engine.report.uncertainty import Uncertainty
from worker.engine.run import Run
from worker.engine.stages.baseline import dense_files, learnt_nothing
from worker.engine.stages.nearest import nearest, out_of_reach
from worker.engine.stages.report import write_report
from worker.engine.tasks import Scorer
from worker.engine.workspace import read_json, write_json

ISSUED = "issued.json"
CERTIFICATE_TURNS = 2  # times as long as a candidate is the certificate's pair timed


def certify(run: Run) -> dict[str, Any]:
    """Write certificate.json, what the holdout says row by row, the model card, and the report.

    A run that was killed after the certificate goes on with the report.
    """
    file = run.workspace.folder("certify") / ISSUED
    if (issued := read_json(file)) is None:
        issued = _issued(run)
        write_json(file, issued)
    write_report(run, Uncertainty(**issued["uncertainty"]))
    return dict(issued["result"])


def _issued(run: Run) -> dict[str, Any]:
    """Measure and write everything but the report; answers the stage's result and its intervals."""
    searched, exported = run.workspace.result("search"), run.workspace.result("export")
    baseline, recovered = run.workspace.result("baseline"), run.workspace.result("recover")
    assert baseline is not None
    assert searched is not None
    assert exported is not None
    assert recovered is not None
    recipe = Recipe.model_validate(exported["recipe"])
    optimized = run.workspace.folder("export") / "optimized"
    target_folder = optimized / ("onnx" if run.spec.target.runtime == "onnxruntime" else "safetensors")
    dense_holdout = holdout_of(run, run.dense)
    # Where the vocabulary stayed as it is, both models read the same tokens.
    own_holdout = dense_holdout if run.origin is run.dense else holdout_of(run, run.origin)
    model = load_folder(run.workspace.folder("recover") / recovered["folder"] / "model")
    small, whole = anatomy_of(model), run.dense.anatomy
    inputs = CertifyInputs(
        spec=run.asked,
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
        nearest=nearest(run),
        notes=[
            *filter(None, (baseline["cut_short"], learnt_nothing(run, baseline["delivered_metric"]))),
            *run.notes,
            *out_of_reach(run.spec.constraints, searched["utmost"], recovered["violations"]),
        ],
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
        base_model=public_name(run.spec.base_model),
        dataset=public_name(run.spec.dataset),
        labels=run.data.labels,
        task=run.spec.task,
    )
    for name in run.spec.exports:
        write_card(optimized / name, certified, facts, name)
    return {
        "result": {"constraints_met": certified.constraints_met, "verdict": certified.verdict},
        "uncertainty": Uncertainty.of(issued.paired, issued.round_speedups).to_json(),
    }


def holdout_of(run: Run, origin: Origin) -> Holdout:
    """The rows that judge, as the tokenizer that goes with a model cuts them. For certificates alone."""
    split = origin.encoded(run.data.holdout())
    ids, types = token_rows(split)
    scorer = Scorer(run.task, run.spec.metric, split)
    return Holdout(ids, scorer, types, split.pad_id, split.choices, next_token=split.token_outputs > 0)


def _files(folder: Path) -> dict[str, Path]:
    """What was exported, by name. The cards quote the certificate, so it cannot hold their digests."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != CARD_FILE)
    return {str(path.relative_to(folder)): path for path in files}
