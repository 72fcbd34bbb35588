"""Analyse: the latency table of the target, and the significance of every element."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from worker.engine.anatomy.heads import READS_FIRST_TOKEN
from worker.engine.measure.latency_table import Dimensions, LatencyTable
from worker.engine.measure.table_measure import latency_table
from worker.engine.run import Run
from worker.engine.significance.report import all_elements, significance_report
from worker.engine.stages.baseline import dense_files
from worker.engine.stages.problem import compared_rows, cost_model, fisher
from worker.engine.stages.weighing import Weighing
from worker.engine.workspace import write_json

WEIGHED_ROWS = 256  # of the selection split at most, for the loss change of every single element
WEIGHING_SHARE = 0.05  # of the budget, for that


def analyse(run: Run) -> dict[str, Any]:
    """Write latency_table.json and significance.json (an artifact)."""
    folder = run.workspace.folder("analyse")
    table_file = folder / "latency_table.json"
    if not table_file.exists():
        write_json(table_file, _latency_table(run).to_json())

    # An element costs half a pass on average: the layers before it are not computed anew.
    passes = len(all_elements(run.anatomy.full_shape())) // 2 + 1
    weighing = Weighing(run, min(WEIGHED_ROWS, compared_rows(run, passes, WEIGHING_SHARE)))
    report = significance_report(
        run.anatomy,
        weighing.base_losses(),
        weighing.losses(),
        fisher(run, run.anatomy, run.anatomy.full_shape()),
        cost_model(run),
        length=run.length(),
    )
    write_json(folder / "significance.json", report)
    return {"elements": len(report["elements"]), "rank_agreement": report["rank_agreement"]}


def _latency_table(run: Run) -> LatencyTable:
    dense, whole = dense_files(run)
    anatomy = run.anatomy
    return latency_table(
        dense,
        run.timed_inputs(),
        Dimensions(
            anatomy.hidden_size,
            anatomy.head_size,
            anatomy.heads,
            anatomy.channels,
            anatomy.layers,
            form=anatomy.form,
            layer_variants=anatomy.layer_variants,
            first_token_only=anatomy.kind in READS_FIRST_TOKEN,
        ),
        threads=run.threads,
        delivered=whole,
        quantized=run.quantizes,
        cache=_cache_folder(),
        seconds_per_stack=run.timing_seconds / 8,
        on_step=lambda step, total: run.progress("analyse", step, total, "measuring the latency table"),
    )


def _cache_folder() -> Path:
    """Tables are kept for every run of this machine: AXFORGE_CACHE_DIR, or the user's cache folder."""
    given = os.environ.get("AXFORGE_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "axforge"
