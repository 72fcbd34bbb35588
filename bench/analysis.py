"""`make bench-analysis`: what the estimators say and cost, what races save, what least squares keep.

    AXFORGE_BENCH_DATA=FOLDER python -m bench.analysis [analysis depth retraining-free hidden drivers]

`analysis`: MiniLM (six layers) fine-tuned on all of TREC. Every estimator's rank agreement with exact
ablation and its cost, beside one epoch of fine-tuning on the same rows (`analysis_over_epoch`: all that a
job does by default, ablation and every estimate on as many rows as a job has for them); ablation on 400
rows as well, for how far its order stands; and the accuracy-driven search with whole judgements and with
races: token-layers, seconds, decisions.
`depth`: the same with every layer twice (twelve layers).
`retraining-free`: 1.5 times fewer milliseconds by structure alone, without quantization, from 2,048 rows,
with `recovery: reconstruct` and with `off`.
`hidden`, `drivers`: see bench/drivers.py; they need no FOLDER. Written to bench/results/analysis.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, AutoTokenizer

from bench import drivers
from bench.main import DATA_OPTIONS, ROOT, base_model, data_folder, optimized
from bench.record import machine, record
from models.spec import ESTIMATORS as NAMES
from models.spec import ApproximationName, JobSpec
from worker.engine.anatomy import Anatomy, Shape, anatomy_of
from worker.engine.origin import Origin
from worker.engine.prepare import load_model
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.significance.agreement import agreement_by_kind, reliability_by_kind
from worker.engine.significance.base import Material, Tally
from worker.engine.significance.elements import Element
from worker.engine.significance.prefix import PrefixReplay
from worker.engine.significance.registry import ESTIMATORS
from worker.engine.significance.report import Ablated, Estimate, all_elements
from worker.engine.significance.siblings import sibling_sets
from worker.engine.stages.analyse import (
    ESTIMATING_EPOCHS,
    ESTIMATING_PASSES,
    WEIGHED_ROWS,
    WEIGHING_EPOCHS,
)
from worker.engine.stages.prepare import prepare
from worker.engine.stages.problem import COMPARED_ROWS, at_most, rows_in_epochs, sample
from worker.engine.stages.racing import Race
from worker.engine.strategies.accuracy_driven import accuracy_driven
from worker.engine.strategies.base import Judgement, SearchProblem, SearchStep
from worker.engine.strategies.goal import CostModel, DenseReference, Goal
from worker.engine.tasks import Split, evaluate
from worker.engine.training import FitOptions, fine_tune

RESULTS = ROOT / "bench" / "results" / "analysis.json"
PARTS = ("analysis", "depth", "retraining-free", "hidden", "drivers")
EPOCHS = 3
MOST_ABLATED = 400  # rows of the selection split, for the order that estimates are compared with
SEED = 0
ERROR_RATES = (0.0, 0.01)
FREE_ROWS = 2048
FREE_MINUTES = 3.0


def main() -> None:
    """Measure the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    record("machine", machine() | {"seed": SEED}, RESULTS)
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as folder:
        if "analysis" in parts:
            record("six_layers", _analysed(base_model(), Path(folder) / "six"), RESULTS)
        if "depth" in parts:
            deep = doubled(base_model(), Path(folder) / "deep-base")
            record("twelve_layers", _analysed(deep, Path(folder) / "twelve"), RESULTS)
        if "retraining-free" in parts:
            for task in ("trec", "sst2"):
                record(f"retraining_free_{task}", retraining_free(task, Path(folder) / task), RESULTS)
        if {"hidden", "drivers"} & set(parts):
            run = drivers.dense_run(ROOT / "out" / "bench-drivers")
            if "hidden" in parts:
                record("hidden_groups", drivers.hidden(run), RESULTS)
            if "drivers" in parts:
                record("drivers", drivers.drivers(run), RESULTS)


def doubled(source: Path, target: Path) -> Path:
    """The encoder with every layer twice, one after the other."""
    config = AutoConfig.from_pretrained(source)
    model = AutoModel.from_pretrained(source)
    config.num_hidden_layers *= 2
    deep = AutoModel.from_config(config)
    deep.embeddings.load_state_dict(model.embeddings.state_dict())
    deep.pooler.load_state_dict(model.pooler.state_dict())
    for number, layer in enumerate(deep.encoder.layer):
        layer.load_state_dict(model.encoder.layer[number // 2].state_dict())
    deep.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return target


def _analysed(base: Path, folder: Path) -> dict[str, Any]:
    """Estimators and races on one model, fine-tuned on TREC."""
    source = {"path": str(data_folder("trec")), **DATA_OPTIONS["trec"]}
    spec = JobSpec.model_validate({"base_model": {"path": str(base)}, "dataset": source, "seed": SEED})
    run = Run(spec, folder, SilentReporter())
    run.workspace.finish("prepare", prepare(run))
    data = Origin(run, base)
    model, _ = load_model(base, run.task, labels=run.data.labels, seed=SEED)
    options = FitOptions(epochs=EPOCHS, seed=SEED)
    fitted = fine_tune(model, data.train, data.selection, run.task, options, device=run.device)
    epoch = fitted.seconds / fitted.epochs
    anatomy = anatomy_of(model)
    estimators = estimated(run, anatomy, data.train, data.selection)
    seconds = sum(estimators[name]["seconds"] for name in NAMES)
    return {
        "training_rows": len(data.train),
        "selection_rows": len(data.selection),
        "accuracy": fitted.best_metric,
        "epoch_seconds": round(epoch, 2),
        "analysis_seconds": round(seconds, 2),
        "analysis_over_epoch": round(seconds / epoch, 3),
        "estimators": estimators,
        "races": raced(run, anatomy, data.selection),
    }


def estimated(run: Run, anatomy: Anatomy, train: Split, selection: Split) -> dict[str, Any]:
    """Rank agreement with exact ablation on the selection split, and cost, of each estimator.

    On as many rows as a job has for them that is not short of minutes.
    """
    full = anatomy.full_shape()
    elements = all_elements(full)
    allowed = rows_in_epochs(WEIGHING_EPOCHS, len(train), len(elements) // 2 + 1)
    usual = ablated(run, anatomy, sample(selection, at_most(allowed, WEIGHED_ROWS), SEED), elements)
    most = ablated(run, anatomy, sample(selection, MOST_ABLATED, SEED), elements)
    kinds, exact = [each.kind for each in elements], most.pop("changes")
    agreed = agreement_by_kind(kinds, exact, usual.pop("changes"))
    told: dict[str, Any] = {"ablation": usual | {"agreement": agreed}, "ablation_on_more_rows": most}
    rows = at_most(rows_in_epochs(ESTIMATING_EPOCHS, len(train), ESTIMATING_PASSES), COMPARED_ROWS)
    for name in NAMES[1:]:
        given = Material(anatomy, full, sample(train, rows, SEED), run.task, run.device, tally=Tally())
        estimate = Estimate.by(ESTIMATORS[name], given, elements)
        values = [estimate.values[each.id] for each in elements]
        told[name] = {
            **vars(estimate.cost),
            "seconds": round(estimate.cost.seconds, 2),
            "agreement": agreement_by_kind(kinds, exact, values),
        }
    return told


def ablated(run: Run, anatomy: Anatomy, rows: Split, elements: Sequence[Element]) -> dict[str, Any]:
    """Loss `changes` without each element, how far these stand, and what they took."""
    full, tally, began = anatomy.full_shape(), Tally(), time.perf_counter()
    replay = PrefixReplay(anatomy, rows, run.task, run.device, precision="fast", tally=tally)
    base = replay.losses(full)
    without = {
        element.id: Ablated.of(losses, base)
        for siblings in sibling_sets(elements, full)
        for element, losses in zip(siblings, replay.losses_without(siblings), strict=True)
    }
    seconds = time.perf_counter() - began
    plain = int(rows.lengths.sum()) * anatomy.layers * len(elements)
    changes = [without[each.id].loss - float(base.mean()) for each in elements]
    errors = [without[each.id].standard_error for each in elements]
    return {
        "changes": changes,
        "rows": len(rows),
        "seconds": round(seconds, 2),
        "token_layers": tally.token_layers,
        "token_layers_of_whole_passes": plain,
        "times_fewer": round(plain / tally.token_layers, 2),
        "reliability": reliability_by_kind([each.kind for each in elements], changes, errors),
    }


def raced(run: Run, anatomy: Anatomy, rows: Split) -> dict[str, Any]:
    """The accuracy-driven search by whole judgements, and by races at several error rates."""
    tokens = int(rows.lengths.sum()) * anatomy.layers
    passes = 0

    def judge(shape: Shape) -> Judgement:
        nonlocal passes
        passes += 1
        with anatomy.masked(shape):
            told = evaluate(anatomy.model, rows, run.task, device=run.device)
        return Judgement(told.loss, told.metrics["accuracy"], told.losses)

    plain, seconds = _searched(_problem(anatomy, judge))
    answer: dict[str, Any] = {
        "rows": len(rows),
        "plain": {
            "changes_tried": len(plain),
            "accepted": sum(step.candidate.accepted for step in plain),
            "token_layers": passes * tokens,
            "seconds": round(seconds, 2),
        },
    }
    for rate in ERROR_RATES:
        race = Race(
            anatomy,
            rows,
            run.task,
            run.device,
            start=anatomy.full_shape(),
            metric="accuracy",
            error_rate=rate,
            seed=SEED,
        )
        steps, seconds = _searched(_problem(anatomy, race.judge, race.contest))
        answer[f"error_rate_{rate:g}"] = {
            "changes_tried": len(steps),
            "accepted": sum(step.candidate.accepted for step in steps),
            "given_up": sum(step.candidate.measurements.loss is None for step in steps),
            "same_decisions": _decisions(steps) == _decisions(plain),
            "token_layers": race.tally.token_layers,
            "times_fewer": round(passes * tokens / race.tally.token_layers, 2),
            "seconds": round(seconds, 2),
        }
    return answer


def _decisions(steps: list[SearchStep]) -> list[tuple[Any, bool]]:
    return [(step.candidate.recipe, step.candidate.accepted) for step in steps]


def _searched(problem: SearchProblem) -> tuple[list[SearchStep], float]:
    began = time.perf_counter()
    return list(accuracy_driven(problem, None)), time.perf_counter() - began


def _problem(anatomy: Anatomy, judge: Any, contest: Any = None) -> SearchProblem:
    """Accuracy alone: costs are the same whatever goes. Texts are too short for hard attention to matter."""
    allowed: tuple[ApproximationName, ...] = ("prune_blocks", "prune_heads", "prune_weight_groups")

    def unused(shape: Shape) -> Any:
        raise AssertionError("the accuracy-driven search weighs nothing")

    return SearchProblem(
        anatomy=anatomy,
        judge=judge,
        divergence=unused,
        contest=contest,
        significance=unused,
        costs=CostModel(lambda shape: 1.0, anatomy.parameters, 1.0, 1, 0.0),
        dense=DenseReference(1.0, 1.0, 1),
        goal=Goal(),
        focus="accuracy",
        allowed=frozenset(allowed),
        trials=None,
        length=10,
        max_candidates=10_000,
    )


def retraining_free(task: str, folder: Path) -> dict[str, Any]:
    """The dense model of a task, then jobs that may not train, on 2,048 rows and within three minutes."""
    folder.mkdir()
    source = {"path": str(data_folder(task)), **DATA_OPTIONS[task]}
    dense = {
        "base_model": {"path": str(base_model())},
        "dataset": source | {"max_train_rows": 6000},
        "baseline": {"epochs": EPOCHS},
        "approximations": ["quantize"],
        "recovery": "off",
        "budget": {"max_minutes": 10},
        "seed": SEED,
    }
    optimized(dense, folder / "dense")
    return {
        name: _free(source, folder / "dense" / "baseline" / "model", folder / name, changes)
        for name, changes in FREE.items()
    }


FREE: dict[str, dict[str, Any]] = {
    "reconstruct": {"recovery": "reconstruct"},
    "reconstruct_by_reconstruction": {
        "recovery": "reconstruct",
        "significance": {"drives": "reconstruction"},
    },
    "off": {"recovery": "off"},
}


def _free(source: dict[str, Any], model: Path, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    spec = {
        "base_model": {"path": str(model)},
        "dataset": source | {"max_train_rows": FREE_ROWS},
        "fine_tune": False,
        "constraints": {"speed": {"min_speedup": 1.5}},
        "approximations": ["prune_layers", "prune_blocks", "prune_heads", "prune_weight_groups"],
        "budget": {"max_minutes": FREE_MINUTES},
        "seed": SEED,
        **changes,
    }
    job = optimized(spec, folder)
    certificate = job["certificate"]
    return {
        "minutes": job["minutes"],
        "metric": [certificate[which]["metric"]["value"] for which in ("dense", "optimized")],
        **{
            name: certificate["ratios"][name]
            for name in ("speedup", "relative_drop", "relative_drop_interval")
        },
        "macs": [certificate[which]["macs"] for which in ("dense", "optimized")],
        "recipe": certificate["recipe"],
    }


if __name__ == "__main__":
    main()
