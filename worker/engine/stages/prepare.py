"""Prepare: a checked base model, and training, selection and holdout rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from worker.engine.anatomy import family_of
from worker.engine.errors import ModelError
from worker.engine.prepare import prepare_dataset, resolve_model
from worker.engine.prepare.quantized_source import QuantizedSource, dequantized
from worker.engine.run import Run


def prepare(run: Run) -> dict[str, Any]:
    """Fetch and check the base model, then the data. Raises EngineError with the field to mend."""
    run.progress("prepare", 0, 2, "base model")
    model = base_model(run)
    _tell_what_it_was(run)
    _check_loadable(run, model)
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
    """The checked folder of the base model, fetched again where this machine does not have it.

    Of a model that is quantized already, the folder with its weights multiplied out.
    """
    return _read(run)[0]


def positions(folder: Path) -> int:
    """How many tokens the model of a folder has positions for."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    known = int(config.max_position_embeddings)
    if known < 0:  # XLNet's: it has no end
        return sys.maxsize
    form = family_of(config.model_type).variant(config)
    if form.get("positions") == "after_padding":
        known -= int(form["pad_token_id"]) + 1
    return known


def _read(run: Run) -> tuple[Path, QuantizedSource | None]:
    folder = run.workspace.folder("prepare")
    given = resolve_model(run.spec.base_model, folder / "base_model", head=run.task.head)
    return dequantized(given, folder / "dequantized")


def _check_loadable(run: Run, folder: Path) -> None:
    """Raises ModelError where no shape of the model is one that a stock class holds, and such is wanted."""
    model_type = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    if run.spec.constraints.loadable == "native" and family_of(model_type).recast:
        raise ModelError(
            f"models of type {model_type!r} are delivered as models of axforge's own, never as native ones",
            remedy="leave out loadable, or give a base model of another architecture",
            pointer="/constraints/loadable",
        )


def _tell_what_it_was(run: Run) -> None:
    """Say that the dense reference is another one than was given, if it is."""
    was = _read(run)[1]
    if was is not None:
        run.reporter.event(
            "base_model.dequantized",
            f"The base model is quantized already ({was.scheme}, {was.bytes} bytes of weights). It is read "
            f"as fp32 ({was.fp32_bytes} bytes): the dense model that sizes and times are compared with.",
            scheme=was.scheme,
            bytes=was.bytes,
            fp32_bytes=was.fp32_bytes,
        )
