"""The run that the tests of reports share, and a report whose every text would do harm unescaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.spec import Candidate, CandidateMeasurements, JobSpec, Quantize, Recipe
from tests.engine.runs import tiny_spec
from worker.engine.anatomy.shape import LayerShape, Shape
from worker.engine.pipeline import RunResult
from worker.engine.report.probing import attention_probe
from worker.engine.report.schema import Report
from worker.engine.significance.attended import Attended

Finished = tuple[RunResult, Path, dict[str, Any]]
"""A run's result, its folder, and the sources of its spec."""
METADATA = "token hf_abcdefghijkl"

HARM = "<script>alert(1)</script></script><img src=x onerror=alert(2)>\"'&\u2028{{7*7}}"


def reported_spec(sources: dict[str, Any]) -> JobSpec:
    """Of the run that the tests share."""
    # Time enough that latencies are measured on a busy machine too.
    return tiny_spec(sources, metadata={"mine": METADATA}, budget={"max_minutes": 4})


def artifact(result: RunResult, name: str) -> Path:
    """Where an artifact of the run lies."""
    return next(each.path for each in result.artifacts if each.name == name)


def candidate(number: int, metric: float | None, size: int, ms: float | None, **changes: Any) -> Candidate:
    """A candidate with these measurements."""
    fields: dict[str, Any] = {
        "number": number,
        "stage": "search",
        "recipe": Recipe(),
        "measurements": CandidateMeasurements(
            metric=metric,
            parameters=10,
            macs=10,
            size_bytes=size,
            latency_ms=ms,
            latency_source=None if ms is None else "measured",
        ),
        "accepted": True,
        "reason": "as good as any",
    }
    return Candidate(**fields | changes)


def harmful(report: Report) -> Report:
    """The report with harm in every text that comes from the user or the data."""
    document = report.model_dump(mode="json")
    asked = {"text": HARM, HARM: HARM}
    changed = {
        "rows": 1,
        "examples": [{"row": 0, "asked": asked, "expected": HARM, "dense": [HARM], "optimized": HARM}],
    }
    document["holdout"] |= {"right_to_wrong": changed, "wrong_to_right": changed}
    parts = {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    document["holdout"]["classes"] = [{"name": HARM, "rows": 1, "dense": parts, "optimized": parts}]
    document |= {"name": HARM, "base_model": HARM, "dataset": HARM, "device": HARM}
    document["nearest_feasible"] = {HARM: HARM}
    document["reproduction"]["spec"] = {"dataset": {"path": HARM, "columns": {"text": HARM}}}
    document["reproduction"]["versions"] = {HARM: HARM}
    for each in document["candidates"]:
        each |= {"reason": HARM, "summary": HARM}
    return Report.model_validate(document)


def probed(report: Report) -> Report:
    """The report, as if heads had been probed: of two layers of two heads one head and one layer removed."""
    parts = [(0.1, 0.2, 0.3, 0.4), (0.4, 0.2, 0.3, 0.1), (0.5, 0.1, 0.1, 0.3), (0.6, 0.0, 0.1, 0.3)]
    masses = np.array(parts).reshape(2, 2, 4)
    full = Shape.full(2, 2, 4)
    after = Shape((LayerShape((0,), (0, 1, 2, 3)), LayerShape((), (), present=False)))
    return report.model_copy(
        update={"attention": attention_probe(full, after, Attended(masses, tokens=100), rows=10)}
    )


QUANTIZED = Recipe(steps=(Quantize(),))
