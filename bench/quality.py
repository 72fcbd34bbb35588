"""`make bench-quality`: what the service reaches on ten tasks, beside dense, plain int8 and other contenders.

    AXFORGE_BENCH_DATA=FOLDER python -m bench.quality [--tasks sst2 trec ...] [--contenders axforge ...]
        [--seeds 0 1 2] [--minutes 15] [--min-speedup 3] [--min-size-reduction 8] [--again] [--show]

FOLDER holds `<task>/{train,validation,test}.jsonl.gz`. For each task and seed MiniLM is fine-tuned once;
every contender begins with that checkpoint (kept below out/bench-quality), and its certificate becomes one
row of bench/results/quality.json, written as soon as it is there. Rows that the file has are not measured
again unless `--again` says so: a run that was ended goes on with what is missing. `minutes` are those of the
row's own work; fine-tuning the dense model is told apart. Without tasks all are run; without contenders those
that are made for the task. `--show` prints the file's medians over the seeds.

dense            the fine-tuned model itself: what all others are compared with
int8             dynamic int8 of the whole model and nothing else
axforge          a drop of at most 0.5 %, and as much speed and size together as asked; focus balanced
hard             the same drop at four times faster and fourteen times smaller
stretch          the same drop at six times faster and twenty times smaller
fisher           the same part of all heads, channels and dimensions by Fisher information, in one shot, down
                 to the same bounds and distilled for as long (bench/contenders.py)
magnitude        the same by the weights' norms
accuracy         focus accuracy: no drop, 3.2 times smaller (rte, cola, mrpc)
far              10 times faster with a drop of at most 5 % (sst2, qnli_derived)
retraining-free  1.5 times faster by structure alone: no training, no quantization, a drop of at most 1 %,
                 three minutes, 2,048 training rows
reconstruct      the same with the weights that are left solved anew by least squares
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.contenders import Contender, contended
from bench.main import ROOT, JobFailed, base_model, data_folder, ran
from bench.prediction import predicted
from bench.quality_tasks import QUALITY_TASKS, QualityTask
from bench.record import Rows, of_certificate
from models.spec import JobSpec, Quantize, Recipe
from worker.engine.delivery import target_file
from worker.engine.errors import EngineError
from worker.engine.measure import certificate
from worker.engine.measure.certificate import CertifiedModel, CertifyInputs
from worker.engine.pipeline import do_stages
from worker.engine.recording import recorded_timeline
from worker.engine.reporting import SilentReporter, Stage
from worker.engine.run import Run
from worker.engine.stages.certify import holdout_of
from worker.engine.stages.timetable import RECOVERY_SHARE

RESULTS = ROOT / "bench" / "results" / "quality.json"
CACHE = ROOT / "out" / "bench-quality"
STAGES: tuple[Stage, ...] = ("prepare", "baseline")
FINE_TUNING_SHARE = 0.39  # of the budget of a job without recovery: what its fine-tuning may take
STRUCTURE = ["prune_layers", "prune_blocks", "prune_heads", "prune_weight_groups"]
FREE_MINUTES, FREE_ROWS = 3.0, 2048
TIMING_SECONDS = 28.0  # of a certificate, as a job with a long budget takes
KEY = ("task", "seed", "contender")


@dataclass(frozen=True)
class Asked:
    """What the command line asks; None: as the task's settings say."""

    minutes: float | None = None
    speedup: float | None = None
    size_reduction: float | None = None


class Dense:
    """The dense model of a task and seed, fine-tuned when it is first asked for.

    `task`: other settings than those of the task with that name.
    """

    def __init__(self, name: str, seed: int, cache: Path, task: QualityTask | None = None) -> None:
        self.name, self.task, self.seed = name, task or QUALITY_TASKS[name], seed
        self.spec = JobSpec.model_validate(
            self.task.spec
            | {
                "name": f"{name}-dense",
                "base_model": {"path": str(base_model())},
                "dataset": {"path": str(data_folder(name)), **self.task.dataset},
                "approximations": ["quantize"],
                "recovery": "off",
                "budget": {"max_minutes": self.task.dense_minutes / FINE_TUNING_SHARE},
                "seed": seed,
            }
        )
        self.folder = cache / f"{name}-{seed}-{self.spec.digest()[:12]}"

    def run(self) -> Run:
        """The run up to its baseline."""
        run = Run(self.spec, self.folder, SilentReporter())
        do_stages(run, STAGES)
        return run

    def fine_tuning(self) -> dict[str, Any]:
        """What each row says of the dense model's training."""
        run = self.run()
        rows, baseline = run.data.rows, run.workspace.result("baseline")
        stage = recorded_timeline(run.workspace)["baseline"]
        assert baseline is not None
        return {
            "rows": rows["train"],
            "selection_rows": rows["selection"],
            "drawn": "max_train_rows" in self.task.dataset,
            "cut_short": baseline["cut_short"],
            "minutes": round((stage["ended"] - stage["began"]) / 60, 2),
        }

    def certified(self, recipe: Recipe, name: str) -> dict[str, Any]:
        """The certificate of a file that the baseline has left in its folder `name`."""
        run = self.run()
        whole, anatomy = run.workspace.folder("baseline"), run.dense.anatomy
        full = anatomy.full_shape()
        counts = anatomy.parameters(full), anatomy.macs(full, run.dense.length())
        inputs = CertifyInputs(
            spec=run.asked,
            recipe=recipe,
            dense=CertifiedModel(target_file(run, whole / "dense"), *counts),
            optimized=CertifiedModel(target_file(run, whole / name), *counts),
            holdout=holdout_of(run, run.dense),
            artifacts={},
            loadable="onnx",
        )
        issued = certificate.certify(inputs, seconds=TIMING_SECONDS)
        return issued.certificate.model_dump(mode="json")


def dense_row(dense: Dense, asked: Asked) -> dict[str, Any]:
    """Dense beside itself: what the intervals and the spread of times are where nothing differs."""
    began = time.monotonic()
    told = dense.certified(Recipe(), "dense")
    return _row(told) | {"minutes": round((time.monotonic() - began) / 60, 2)}


def int8_row(dense: Dense, asked: Asked) -> dict[str, Any]:
    """Dynamic int8 of all matrices and the word embedding."""
    began = time.monotonic()
    told = dense.certified(Recipe(steps=(Quantize(),)), "dense-int8")
    return _row(told) | {"minutes": round((time.monotonic() - began) / 60, 2)}


Changes = Callable[[QualityTask, Asked], dict[str, Any]]
"""What a contender's spec says beside that of all: by the task, and by what the command line asks."""


def job(changes: Changes) -> Callable[[Dense, Asked], dict[str, Any]]:
    """A contender that is a job from the dense checkpoint on, with these fields in its spec."""

    def row(dense: Dense, asked: Asked) -> dict[str, Any]:
        spec, folder = spec_of(dense, asked, changes), _empty(dense.folder / "job")
        done = ran(spec, folder)
        told = _told(JobSpec.model_validate(spec), folder, done.certificate) | {
            "minutes": done.minutes,
            "peak_rss_mib": done.peak_rss_mib,
            "searched": _searched(done.candidates.values()),
        }
        shutil.rmtree(folder)
        return told

    return row


def plain(contender: Contender) -> Callable[[Dense, Asked], dict[str, Any]]:
    """Widths of one ratio by one score, asked for what `axforge` is, trained as long as a job's recovery."""

    def row(dense: Dense, asked: Asked) -> dict[str, Any]:
        spec = JobSpec.model_validate(spec_of(dense, asked, all_at_once))
        folder = _empty(dense.folder / "job")
        done = contended(spec, folder, contender, RECOVERY_SHARE * spec.budget.max_minutes * 60)
        told = _told(spec, folder, done["certificate"]) | {
            "minutes": done["minutes"],
            "training_seconds": done["training_seconds"],
        }
        shutil.rmtree(folder)
        return told

    return row


def spec_of(dense: Dense, asked: Asked, changes: Changes) -> dict[str, Any]:
    """The job of a contender, from the dense checkpoint on."""
    changed = changes(dense.task, asked)
    source = {"path": str(data_folder(dense.name)), **dense.task.dataset, **changed.pop("dataset", {})}
    return {
        **dense.task.spec,
        "name": f"{dense.name}-minilm",
        "base_model": {"path": str(dense.run().dense_folder)},
        "dataset": source,
        "fine_tune": False,
        "budget": {"max_minutes": asked.minutes or dense.task.minutes},
        "seed": dense.seed,
        **changed,
    }


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _told(spec: JobSpec, folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    """A certificate's row, with what the job in `folder` was asked and what its cost model predicts."""
    run = Run(spec, folder, SilentReporter())
    return _row(told) | {
        "focus": spec.focus,
        "constraints": spec.constraints.model_dump(mode="json", exclude_none=True),
        "budget_minutes": spec.budget.max_minutes,
        "rows_used": run.data.rows,
        "predicted": predicted(run, Recipe.model_validate(told["recipe"])),
    }


def _searched(candidates: Iterable[dict[str, Any]]) -> dict[str, float] | None:
    """What the search predicted of the structure that it ended with, before it was timed and trained."""
    accepted = [each for each in candidates if each["stage"] == "search" and each["accepted"]]
    last = max(accepted, key=lambda each: each["number"], default=None)
    return (
        None if last is None else {each: last["measurements"][each] for each in ("speedup", "size_reduction")}
    )


def _row(told: dict[str, Any]) -> dict[str, Any]:
    """What the results keep of a certificate."""
    dense, optimized = told["dense"], told["optimized"]
    return {
        **of_certificate(told),
        "macs_reduction": dense["macs"] / optimized["macs"],
        "dense_ms": dense["latency_ms"]["p50"],
        "verdict": told["verdict"],
        "nearest": told["nearest"],
        "notes": told["notes"],
        "focus": None,
    }


def all_at_once(task: QualityTask, asked: Asked) -> dict[str, Any]:
    """What contender `axforge` asks."""
    return {
        "constraints": {
            "accuracy": {"max_relative_drop": 0.005},
            "speed": {"min_speedup": asked.speedup or task.speedup},
            "size": {"min_reduction": asked.size_reduction or task.size_reduction},
        },
        "focus": "balanced",
    }


def _at(speedup: float, size_reduction: float) -> Callable[[QualityTask, Asked], dict[str, Any]]:
    """As `axforge`, at these for every task."""
    return lambda task, asked: all_at_once(
        task, replace(asked, speedup=speedup, size_reduction=size_reduction)
    )


def _accuracy(task: QualityTask, asked: Asked) -> dict[str, Any]:
    return {
        "constraints": {"accuracy": {"min_gain": 0.0}, "size": {"min_reduction": 3.2}},
        "focus": "accuracy",
    }


def _far(task: QualityTask, asked: Asked) -> dict[str, Any]:
    return {
        "constraints": {"accuracy": {"max_relative_drop": 0.05}, "speed": {"min_speedup": 10.0}},
        "focus": "speed",
    }


def _retraining_free(task: QualityTask, asked: Asked, recovery: str = "off") -> dict[str, Any]:
    return {
        "constraints": {"accuracy": {"max_relative_drop": 0.01}, "speed": {"min_speedup": 1.5}},
        "focus": "speed",
        "approximations": STRUCTURE,
        "recovery": recovery,
        "dataset": {"max_train_rows": FREE_ROWS},
        "budget": {"max_minutes": FREE_MINUTES},
    }


CONTENDERS: dict[str, Callable[[Dense, Asked], dict[str, Any]]] = {
    "dense": dense_row,
    "int8": int8_row,
    "axforge": job(all_at_once),
    "hard": job(_at(4.0, 14.0)),
    "stretch": job(_at(6.0, 20.0)),
    "fisher": plain("fisher"),
    "magnitude": plain("magnitude"),
    "accuracy": job(_accuracy),
    "far": job(_far),
    "retraining-free": job(_retraining_free),
    "reconstruct": job(partial(_retraining_free, recovery="reconstruct")),
}
ONLY = {"accuracy": {"rte", "cola", "mrpc"}, "far": {"sst2", "qnli_derived"}}
"""Contenders that are made for some tasks alone; others get them when they are named."""


def main() -> int:
    """Measure the rows asked for that are missing; exit 1 where a job failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tuple(QUALITY_TASKS), default=list(QUALITY_TASKS))
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONTENDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, help="a job's budget; default: by task")
    parser.add_argument("--min-speedup", type=float, help="asked of contender axforge; default: by task")
    parser.add_argument("--min-size-reduction", type=float, help="the same")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--show", action="store_true", help="print medians of the rows; measure nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=CACHE)
    given = parser.parse_args()
    if given.show:
        print(table(Rows(given.results, KEY).all()))
        return 0
    asked = Asked(given.minutes, given.min_speedup, given.min_size_reduction)
    failed = 0
    for seed in given.seeds:
        for name in given.tasks:
            wanted = given.contenders or [one for one in CONTENDERS if name in ONLY.get(one, QUALITY_TASKS)]
            failed += _measured(Dense(name, seed, given.cache), wanted, asked, given)
    return 1 if failed else 0


def _measured(dense: Dense, wanted: list[str], asked: Asked, given: argparse.Namespace) -> int:
    """Measure and keep the contenders of a task and seed; answers how many failed."""
    failed, rows = 0, Rows(given.results, KEY)
    for contender in wanted:
        key = {"task": dense.name, "seed": dense.seed, "contender": contender}
        if rows.find(key) is not None and not given.again:
            continue
        try:
            dense.run()  # its minutes are not the row's
            row = key | CONTENDERS[contender](dense, asked) | {"fine_tuning": dense.fine_tuning()}
        except (JobFailed, EngineError) as error:
            print(f"{dense.name} {dense.seed} {contender}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        rows.keep(row)
        print(told_row(row), flush=True)
    return failed


def told_row(row: dict[str, Any]) -> str:
    """One line."""
    low, high = row["interval"]
    return (
        f"{row['task']:12} {row['seed']} {row['contender']:15} {row['optimized_metric']:.4f} of "
        f"{row['dense_metric']:.4f}, drop {row['relative_drop']:+.2%} ({low:+.2%} to {high:+.2%}), "
        f"{row['speedup']:.2f}x faster, {row['size_reduction']:.2f}x smaller, "
        f"{row['verdict']}, {row['minutes']} min"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: for each task and contender medians over the seeds."""
    lines = [
        "| task | contender | seeds | drop | faster | smaller | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, contender in sorted({(row["task"], row["contender"]) for row in rows}):
        same = [row for row in rows if (row["task"], row["contender"]) == (task, contender)]
        drop, faster, smaller = (
            statistics.median(row[name] for row in same)
            for name in ("relative_drop", "speedup", "size_reduction")
        )
        met = sum(row["met"] for row in same)
        lines.append(
            f"| {task} | {contender} | {len(same)} | {drop:+.2%} | {faster:.2f}x | {smaller:.2f}x "
            f"| {met} of {len(same)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
