"""Analyse: the latency table of the target, and the significance of every element."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from worker.engine.measure.latency_table import Dimensions, LatencyTable
from worker.engine.measure.table_measure import latency_table
from worker.engine.run import Run
from worker.engine.significance.report import significance_report
from worker.engine.stages.baseline import dense_files
from worker.engine.stages.problem import WEIGHED_ROWS, search_problem
from worker.engine.strategies.goal import Goal
from worker.engine.workspace import write_json


def analyse(run: Run) -> dict[str, Any]:
    """Write latency_table.json and significance.json (an artifact)."""
    folder = run.workspace.folder("analyse")
    table_file = folder / "latency_table.json"
    if not table_file.exists():
        write_json(table_file, _latency_table(run).to_json())

    def tell(message: str, step: int, total: int | None) -> None:
        run.progress("analyse", step, total, message)

    problem = search_problem(run, run.anatomy, Goal(), rows=WEIGHED_ROWS, tell=tell)
    report = significance_report(
        run.anatomy,
        lambda shape: problem.judge(shape).losses,
        problem.fisher(run.anatomy.full_shape()),
        problem.costs,
        length=run.length(),
        told=lambda done, total: tell("weighing elements", done, total),
    )
    write_json(folder / "significance.json", report)
    return {"elements": len(report["elements"]), "rank_agreement": report["rank_agreement"]}


def _latency_table(run: Run) -> LatencyTable:
    dense, whole = dense_files(run)
    anatomy = run.anatomy
    return latency_table(
        dense,
        run.timed_inputs(),
        Dimensions(anatomy.hidden_size, anatomy.head_size, anatomy.heads, anatomy.channels, anatomy.layers),
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
