"""The report: what the run's stages left and latencies measured for it, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.spec import Certificate
from worker.engine.delivery import target_file
from worker.engine.measure.grid import CALLS, Cell, CellTime, Grid, latency_grid, planned_cells
from worker.engine.measure.holdout_report import REPORT_FILE as HOLDOUT_FILE
from worker.engine.measure.inputs import BenchInputs
from worker.engine.measure.latency_table import LatencyTable
from worker.engine.measure.probing import ModelFile
from worker.engine.origin import Origin, token_rows
from worker.engine.recording import recorded_candidates, recorded_timeline
from worker.engine.report import weights
from worker.engine.report.document import Evidence, report_document
from worker.engine.report.outlines import architecture
from worker.engine.report.page import report_page
from worker.engine.report.times import milliseconds
from worker.engine.report.uncertainty import Uncertainty
from worker.engine.run import Run
from worker.engine.stages.attention import probed_attention
from worker.engine.stages.baseline import dense_files
from worker.engine.stages.timing import reference_times
from worker.engine.workspace import read_json, write_json

JSON_FILE, PAGE_FILE = "report.json", "report.html"
ATTENTION_FILE = "attention.json"
LEAST_SECONDS = (
    2.0  # for latencies, when the budget is used up: as the certificate, they are measured all the same
)
GRID_FILE = "latency_grid.json"


def write_report(run: Run, uncertainty: Uncertainty) -> None:
    """Write report.json and report.html beside the certificate; latencies that were measured stay."""
    folder = run.workspace.folder("certify")
    certificate = Certificate.model_validate_json((folder / "certificate.json").read_text(encoding="utf-8"))
    before, after = weights.content(dense_files(run)[0]), weights.content(_delivered(run))
    anatomy = run.dense.anatomy
    shape = anatomy.shape(certificate.recipe)
    times, recovered = reference_times(run), _there(run.workspace.result("recover"))
    report = report_document(
        Evidence(
            spec=run.asked,
            certificate=certificate,
            uncertainty=uncertainty,
            candidates=list(recorded_candidates(run.workspace).values()),
            significance=_there(read_json(run.workspace.folder("analyse") / "significance.json")),
            attention=probed_attention(run, shape, folder / ATTENTION_FILE),
            holdout=_there(read_json(folder / HOLDOUT_FILE)),
            architecture=architecture(anatomy, shape, (weights.precision(before), weights.precision(after))),
            bytes=weights.part_bytes(
                before, after, [number for number, layer in enumerate(shape.layers) if layer.present]
            ),
            milliseconds=milliseconds(
                LatencyTable.from_json(
                    _there(read_json(run.workspace.folder("analyse") / "latency_table.json"))
                ),
                anatomy.full_shape(),
                shape,
                dense=times.dense,
                whole=times.whole,
                optimized=recovered["ms"],
            ),
            grid=_grid(run, folder / GRID_FILE),
            timeline=recorded_timeline(run.workspace),
            seconds=run.stopwatch.used,
            threads=run.threads,
        )
    )
    document = report.model_dump(mode="json")
    (folder / PAGE_FILE).write_text(report_page(report), encoding="utf-8")
    write_json(folder / JSON_FILE, document)


def _grid(run: Run, file: Path) -> Grid:
    """Measured, or read back from what an earlier attempt has measured."""
    if (stored := read_json(file)) is not None:
        return Grid(
            {
                (length, batch): CellTime(dense, optimized)
                for length, batch, dense, optimized in stored["cells"]
            },
            tuple((length, batch) for length, batch in stored["not_measured"]),
            stored["seconds"],
        )
    cells = planned_cells(run.max_length, run.spec.target.batch_size)
    grid = latency_grid(
        {"dense": dense_files(run)[0], "optimized": _delivered(run)},
        {"dense": _inputs(run, run.dense), "optimized": _inputs(run, run.origin)},
        cells,
        threads=run.threads,
        seconds=min(run.timing_seconds, max(LEAST_SECONDS, run.stopwatch.left)),
        on_cell=lambda number: run.progress("certify", number, len(cells), "latency by length and batch"),
    )
    measured = {
        "cells": [[*cell, taken.dense, taken.optimized] for cell, taken in grid.cells.items()],
        "not_measured": grid.not_measured,
        "seconds": grid.seconds,
    }
    write_json(file, measured)
    return grid


def _inputs(run: Run, origin: Origin) -> Callable[[Cell], BenchInputs]:
    """Selection rows as a model's tokenizer cuts them, cut or repeated to a cell's length."""
    split = origin.selection
    ids, types = token_rows(split)

    def made(cell: Cell) -> BenchInputs:
        length, batch = cell
        return BenchInputs.sample(
            ids,
            batch_size=batch,
            sequence_length=length,
            pad_id=split.pad_id,
            token_types=types,
            choices=split.choices,
            calls=CALLS,
            seed=run.spec.seed,
        )

    return made


def _delivered(run: Run) -> ModelFile:
    form = "onnx" if run.spec.target.runtime == "onnxruntime" else "safetensors"
    return target_file(run, run.workspace.folder("export") / "optimized" / form)


def _there(document: dict[str, Any] | None) -> dict[str, Any]:
    """What a stage before this one has left."""
    assert document is not None
    return document
