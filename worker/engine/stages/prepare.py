"""Prepare: a checked base model, and training, selection and holdout rows."""

from __future__ import annotations

from typing import Any

from worker.engine.prepare import prepare_dataset, resolve_model
from worker.engine.run import Run


def prepare(run: Run) -> dict[str, Any]:
    """Fetch and check the base model, then the data. Raises EngineError with the field to mend."""
    folder = run.workspace.folder("prepare")
    run.progress("prepare", 0, 2, "base model")
    model = resolve_model(run.spec.base_model, folder / "base_model")
    run.progress("prepare", 1, 2, "data set")
    data = prepare_dataset(
        run.spec.dataset, folder / "data", seed=run.spec.seed, task=run.task, reporter=run.reporter
    )
    return {"base_model": str(model), "labels": list(data.labels)}
