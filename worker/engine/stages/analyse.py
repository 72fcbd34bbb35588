"""Analyse: the latency table of the target, and the significance of every element."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from models.spec import EstimatorName, PruneLayers
from worker.engine.anatomy.heads import READS_FIRST_TOKEN
from worker.engine.measure.latency_table import Dimensions, LatencyTable
from worker.engine.measure.probing import ModelFile
from worker.engine.measure.sparse_measure import sparse_costs
from worker.engine.measure.table_measure import latency_table
from worker.engine.run import Run
from worker.engine.significance.elements import Element
from worker.engine.significance.registry import ESTIMATORS
from worker.engine.significance.report import Cost, Estimate, significance_report
from worker.engine.significance.sparse_elements import SparseElement
from worker.engine.significance.sparse_report import sparse_report
from worker.engine.stages.baseline import dense_files
from worker.engine.stages.problem import compared_rows, cost_model, material, weighed_elements
from worker.engine.stages.sizing import untrained_file
from worker.engine.stages.sparse import tried_elements, tried_kinds
from worker.engine.stages.timetable import seconds_for
from worker.engine.stages.vocabulary import start_recipe
from worker.engine.stages.weighing import Weighing
from worker.engine.workspace import write_json

WEIGHED_ROWS = (256, 128, 64, 32)  # of the selection split, for the loss change of every single element
WEIGHING_SHARE = 0.03  # of the budget, for that
WEIGHING_EPOCHS = 0.7  # of fine-tuning, that it takes at most
ESTIMATING_EPOCHS = 0.3  # the same of all estimates together
ESTIMATING_PASSES = 11  # forward passes, by what all estimates take: a pass for gradients counts as three
TABLE_SHARE = 0.012  # of the stage's time, for timing one stack of the latency table


def analyse(run: Run) -> dict[str, Any]:
    """Write latency_table.json and significance.json (an artifact)."""
    folder = run.workspace.folder("analyse")
    table_file = folder / "latency_table.json"
    if not table_file.exists():
        write_json(table_file, measured_table(run).to_json())

    # An element costs half a pass on average: the layers before it are not computed anew.
    elements, sparse = weighed_elements(run, run.anatomy.full_shape()), tried_elements(run)
    passes = (len(elements) + len(sparse)) // 2 + 1
    weighing = Weighing(run, compared_rows(run, passes, WEIGHING_SHARE, WEIGHED_ROWS, WEIGHING_EPOCHS))
    began = time.perf_counter()
    base_losses, without = weighing.base_losses, weighing.ablated()
    seconds, costs = time.perf_counter() - began, cost_model(run)
    report = significance_report(
        run.anatomy,
        base_losses,
        without,
        _estimates(run, elements),
        costs,
        ablation=Cost(seconds, weighing.token_layers, len(base_losses)),
        length=run.length(),
        elements=elements,
    )
    report["drives"] = run.spec.significance.drives
    report["temperature"] = weighing.temperature
    shape = run.anatomy.full_shape()
    report["sparse_attention"] = sparse_report(shape, sparse, report["base_loss"], without, costs)
    write_json(folder / "significance.json", report)
    return {"elements": len(report["elements"]), "rank_agreement": report["rank_agreement"]}


def measured_table(run: Run) -> LatencyTable:
    """The table of the target, measured or read back from this machine's cache."""
    dense, whole = dense_files(run)
    anatomy = run.anatomy
    dimensions = Dimensions(
        anatomy.hidden_size,
        anatomy.head_size,
        anatomy.heads,
        anatomy.channels,
        anatomy.layers,
        form=anatomy.form,
        layer_variants=anatomy.layer_variants,
        first_token_only=anatomy.kind in READS_FIRST_TOKEN,
        narrower="prune_hidden" in run.spec.approximations,
    )
    how: dict[str, Any] = {
        "threads": run.threads,
        "delivered": whole,
        "quantized": run.quantizes,
        "cache": _cache_folder(),
        "seconds_per_stack": min(run.timing_seconds / 8, TABLE_SHARE * seconds_for(run, "analyse")),
        "on_step": lambda step, total: run.progress("analyse", step, total, "measuring the latency table"),
    }
    shallow = partial(_last_layer_file, run) if anatomy.layers > 1 else None
    table = latency_table(dense, run.timed_inputs(), dimensions, shallow=shallow, **how)
    kinds = tried_kinds(run)
    if not kinds:
        return table
    how |= {"top_k": SparseElement(kinds[0], 0).top_k, "whole_ms": table.predict(anatomy.full_shape())}
    return replace(table, sparse=sparse_costs(dense, run.timed_inputs(), dimensions, kinds, **how))


def _last_layer_file(run: Run, folder: Path) -> ModelFile:
    """The model that the search begins with, with its last layer alone, in the delivered precision."""
    layers = tuple(range(run.anatomy.layers - 1))
    recipe = start_recipe(run).then(PruneLayers(layers=layers))
    return untrained_file(run, recipe, folder)


def _estimates(run: Run, elements: Sequence[Element]) -> dict[EstimatorName, Estimate]:
    """Of the dense model by Fisher information and by what else is to be reported."""
    shape = run.anatomy.full_shape()
    asked = {"fisher", *run.spec.significance.estimators}
    rows = compared_rows(run, ESTIMATING_PASSES, epochs=ESTIMATING_EPOCHS)
    estimates: dict[EstimatorName, Estimate] = {}
    for name, estimator in ESTIMATORS.items():
        if name == "ablation" or name not in asked:
            continue
        run.progress("analyse", len(estimates), len(asked), f"estimating significance: {name}")
        estimates[name] = Estimate.by(estimator, material(run, run.anatomy, shape, rows), elements)
    return estimates


def _cache_folder() -> Path:
    """Tables are kept for every run of this machine: AXFORGE_CACHE_DIR, or the user's cache folder."""
    given = os.environ.get("AXFORGE_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "axforge"
