"""Every task, end to end: a small real job from its data set to the certified files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from models.spec import TASK_METRICS, TASKS, TaskName, metric_value
from tests.engine.runs import Recorder
from tests.engine.task_runs import task_spec
from worker.engine.measure.probing import ModelFile, probe
from worker.engine.origin import bench_inputs
from worker.engine.pipeline import RunResult, run
from worker.engine.prepare import PreparedData
from worker.engine.report.schema import Report
from worker.engine.run import Run
from worker.engine.tasks import TASKS as ENGINE_TASKS
from worker.engine.tasks import Scorer

FAMILIES = ("bert", "distilbert", "roberta", "deberta-v2", "modernbert", "albert", "gpt2")
FAMILY: dict[TaskName, str] = dict(zip(TASKS, FAMILIES, strict=True))
# Of the tasks, one whose head answers by token; the others take as long, and differ less from the pipeline's.
QUICK: tuple[TaskName, ...] = ("token-classification",)


@pytest.mark.parametrize(
    "task", [task if task in QUICK else pytest.param(task, marks=pytest.mark.slow) for task in TASKS]
)
def test_a_small_real_job(task: TaskName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXFORGE_CACHE_DIR", str(tmp_path / "cache"))
    spec, workdir = task_spec(task, tmp_path, FAMILY[task]), tmp_path / "run"
    result = run(spec, workdir, Recorder())
    certificate = result.certificate
    assert certificate.dense.metric.name == certificate.optimized.metric.name == TASK_METRICS[task][0]
    assert certificate.ratios.size_reduction >= 1.2
    assert certificate.optimized.parameters < certificate.dense.parameters
    data = PreparedData.load(workdir / "prepare" / "data")
    if task == "causal-lm":  # its rows are joined, and cut into blocks
        assert certificate.holdout_rows > 1
    else:
        assert certificate.holdout_rows == data.rows["holdout"] == len(data.holdout())
    report = json.loads(artifact(result, "holdout.json").read_text())
    check_report(report, task, certificate.holdout_rows)
    assert report["scores"]["optimized"][spec.metric] == pytest.approx(certificate.optimized.metric.value)
    shown = Report.model_validate_json(artifact(result, "report.json").read_text())
    assert (shown.task, shown.metric, shown.holdout) == (task, spec.metric, report)
    assert sum(each.optimized for each in shown.bytes) == certificate.optimized.size_bytes
    assert "</html>" in artifact(result, "report.html").read_text()
    check_files_answer_as_certified(Run(spec, workdir, Recorder()), result)


def check_report(report: dict[str, Any], task: TaskName, rows: int) -> None:
    assert (report["task"], report["rows"]) == (task, rows)
    assert set(report["scores"]["dense"]) == set(TASK_METRICS[task])
    assert bool(report["classes"]) == (task not in ("regression", "question-answering", "causal-lm"))
    for kind in ("right_to_wrong", "wrong_to_right"):
        assert report[kind]["rows"] == len(report[kind]["examples"])
        for example in report[kind]["examples"]:
            assert example["dense"] != example["optimized"]
            assert 0 <= example["row"] < rows
            right = example["dense" if kind == "right_to_wrong" else "optimized"]
            if task not in ("regression", "question-answering"):
                assert right == example["expected"]


def check_files_answer_as_certified(run: Run, result: RunResult) -> None:
    """The delivered ONNX file, scored anew, has the certified metric; its outputs are called as elsewhere."""
    split = run.task.encode(run.data.holdout(), run.tokenizer, max_length=run.max_length)
    file = artifact(result, "onnx/model.onnx")
    with probe(ModelFile(file), bench_inputs(split, batch_size=1), threads=1) as running:
        logits = running.logits()
    scorer = Scorer(ENGINE_TASKS[run.spec.task], run.spec.metric, split)
    measured = metric_value(run.spec.metric, scorer.score(scorer.marks(logits)))
    assert measured == pytest.approx(result.certificate.optimized.metric.value, abs=1e-6)
    outputs = [output.name for output in onnxruntime.InferenceSession(file).get_outputs()]
    logits_first = ["start_logits", "end_logits"] if run.task.head == "span" else ["logits"]
    assert [name for name in outputs if not name.startswith("present.")] == logits_first
    assert np.isfinite(logits).all()


def artifact(result: RunResult, name: str) -> Path:
    return next(artifact.path for artifact in result.artifacts if artifact.name == name)
