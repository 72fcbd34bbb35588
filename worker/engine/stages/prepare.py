"""Prepare: a checked base model, and training, selection and holdout rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from worker.engine.anatomy import family_of
from worker.engine.prepare import prepare_dataset, resolve_model
from worker.engine.run import Run


def prepare(run: Run) -> dict[str, Any]:
    """Fetch and check the base model, then the data. Raises EngineError with the field to mend."""
    run.progress("prepare", 0, 2, "base model")
    model = base_model(run)
    run.progress("prepare", 1, 2, "data set")
    folder = run.workspace.folder("prepare") / "data"
    data = prepare_dataset(run.spec.dataset, folder, seed=run.spec.seed, task=run.task, reporter=run.reporter)
    run.task.check_metric(data.labels, run.spec.metric)
    return {
        "labels": list(data.labels),
        "rows": data.rows,
        "max_length": min(run.spec.baseline.max_length, positions(model)),
    }


def base_model(run: Run) -> Path:
    """The checked folder of the base model, fetched again where this machine does not have it."""
    return resolve_model(run.spec.base_model, run.workspace.folder("prepare") / "base_model")


def positions(folder: Path) -> int:
    """How many tokens the model of a folder has positions for."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    known = int(config.max_position_embeddings)
    form = family_of(config.model_type).variant(config)
    if form.get("positions") == "after_padding":
        known -= int(form["pad_token_id"]) + 1
    return known
