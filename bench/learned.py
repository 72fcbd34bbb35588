"""`make bench-learned`: learned masks beside searched and plain ones, by what is kept and how fast it is.

    AXFORGE_BENCH_DATA=FOLDER python -m bench.learned [--tasks sst2 mrpc ...] [--contenders vtrans fisher ...]
        [--sparsities 0.3 0.5 0.7] [--focus size speed] [--seeds 0] [--minutes 12] [--rows 4000] [--show]

For each task and seed MiniLM is fine-tuned once (the checkpoints of `bench/quality.py`, kept below
out/bench-quality, are used); every contender begins with it and is asked for the same: focus `size` that the
fp32 file be 1 / (1 - sparsity) times smaller, word embeddings counted; focus `speed` that it be so many
times faster. Layers, blocks, heads, channels and hidden dimensions may go; nothing is quantized, and the
vocabulary stays.

axformer, vtrans, fast-vtrans, faster-vtrans   jobs with that strategy, each with the same budget
magnitude, fisher                              the same part of every layer, by one score, in one shot
                                               (bench/contenders.py), trained for as many seconds as
                                               axformer's recovery took at the same sparsity; where that is
                                               not known, for what the timetable gives a first rung

Each certificate becomes a row of bench/results/learned.json as soon as it is there; rows that are there are
not measured again unless `--again` says so. `curves` in it are the medians over the seeds: retention
(optimized metric / dense metric, on the holdout) by parameters kept and by measured speedup. `wall_clock`:
vtrans against faster-vtrans at the same sparsity. Four tasks, six contenders and three sparsities of twelve
minutes each are some fifteen hours; the default data are drawn (`drawn`) where two cores would take too long.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.contenders import CONTENDERS as PLAIN
from bench.contenders import contended
from bench.main import ROOT, JobFailed, data_folder, ran
from bench.quality import CACHE, Dense
from bench.quality_tasks import QUALITY_TASKS, QualityTask
from bench.record import Rows, of_certificate, record
from models.spec import JobSpec
from models.spec.job import LEARNED, MASKED_APPROXIMATIONS
from worker.engine.errors import EngineError
from worker.engine.recording import recorded_timeline
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.fitting import FIRST_RECOVERY_SHARE
from worker.engine.stages.timetable import RECOVERY_SHARE
from worker.engine.workspace import read_json

RESULTS = ROOT / "bench" / "results" / "learned.json"
TASKS = ("sst2", "qnli_derived", "mrpc", "squad")
CONTENDERS = ("axformer", *LEARNED, *PLAIN)  # axformer first: its recovery says how long others train
SPARSITIES = (0.3, 0.5, 0.7)
FOCUSES = ("size", "speed")
MINUTES = 12.0
KEY = ("task", "seed", "contender", "focus", "sparsity")


@dataclass(frozen=True)
class Case:
    """What one row is of; `minutes` is the budget of its job."""

    task: str
    seed: int
    contender: str
    focus: str
    sparsity: float
    minutes: float

    @property
    def key(self) -> dict[str, Any]:
        """The fields by which its row is known."""
        return {name: getattr(self, name) for name in KEY}


def main() -> int:
    """Measure the rows asked for that are missing; exit 1 where a job failed."""
    given = _arguments()
    rows = Rows(given.results, KEY)
    if given.show:
        print(table(rows.all()))
        return 0
    failed = 0
    for seed in given.seeds:
        for name in given.tasks:
            task = _task(name, given.rows, given.dense_minutes)
            dense = Dense(name, seed, given.cache, task)
            for focus, sparsity in ((focus, each) for focus in given.focus for each in given.sparsities):
                for contender in (each for each in CONTENDERS if each in given.contenders):
                    minutes = given.minutes or max(MINUTES, task.minutes if name == "squad" else 0.0)
                    case = Case(name, seed, contender, focus, sparsity, minutes)
                    failed += _kept(case, dense, rows, again=given.again)
    return 1 if failed else 0


def spec_of(case: Case, dense: Dense) -> dict[str, Any]:
    """The job of a row, from the dense checkpoint on; a plain contender's is that of axformer."""
    times = 1.0 / (1.0 - case.sparsity)
    bound = {"size": {"min_reduction": times}} if case.focus == "size" else {"speed": {"min_speedup": times}}
    return {
        **dense.task.spec,
        "name": f"{case.task}-{case.contender}",
        "base_model": {"path": str(dense.run().dense_folder)},
        "dataset": {"path": str(data_folder(case.task)), **dense.task.dataset},
        "fine_tune": False,
        "constraints": bound,
        "focus": case.focus,
        "strategy": "axformer" if case.contender in PLAIN else case.contender,
        "approximations": list(MASKED_APPROXIMATIONS),
        "budget": {"max_minutes": case.minutes},
        "seed": case.seed,
    }


def measured(case: Case, dense: Dense, rows: Rows) -> dict[str, Any]:
    """The row of a case. Raises JobFailed and EngineError."""
    document, folder = spec_of(case, dense), dense.folder / "learned"
    spec = JobSpec.model_validate(document)
    shutil.rmtree(folder, ignore_errors=True)
    if case.contender in PLAIN:
        contender = next(each for each in PLAIN if each == case.contender)
        told = contended(spec, folder, contender, training_seconds(case, rows))
        certificate, minutes = told["certificate"], told["minutes"]
    else:
        done = ran(document, folder)
        certificate, minutes = done.certificate, done.minutes
    row = case.key | kept(certificate) | of_run(Run(spec, folder, SilentReporter()))
    shutil.rmtree(folder)
    return row | {
        "minutes": minutes,
        "budget_minutes": case.minutes,
        "strategy": None if case.contender in PLAIN else case.contender,
        "fine_tuning": dense.fine_tuning(),
    }


def training_seconds(case: Case, rows: Rows) -> float:
    """How long a plain contender trains: as the recovery of axformer's job at the same sparsity did."""
    searched = rows.find(case.key | {"contender": "axformer"})
    if searched is not None and searched["budget_minutes"] == case.minutes:
        return float(searched["training_seconds"])
    return RECOVERY_SHARE * FIRST_RECOVERY_SHARE * case.minutes * 60


def kept(told: dict[str, Any]) -> dict[str, Any]:
    """What a row keeps of a certificate."""
    dense, optimized = told["dense"], told["optimized"]
    return {
        **of_certificate(told),
        "retention": optimized["metric"]["value"] / dense["metric"]["value"],
        "parameters_kept": optimized["parameters"] / dense["parameters"],
        "macs_kept": optimized["macs"] / dense["macs"],
    }


def of_run(run: Run) -> dict[str, Any]:
    """What a row keeps of its run: seconds of each stage, and of recovery without the measuring of rungs."""
    stages = {
        stage: round(each["ended"] - each["began"], 1)
        for stage, each in recorded_timeline(run.workspace).items()
    }
    climb = read_json(run.workspace.folder("recover") / "climb.json")
    assert climb is not None
    measuring = sum(rung["measuring_seconds"] for rung in climb["rungs"])
    return {
        "rows_used": run.data.rows,
        "stage_seconds": stages,
        "training_seconds": round(stages["recover"] - measuring, 1),
        "rungs": len(climb["rungs"]),
    }


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By task and contender: medians over the seeds of each focus and sparsity, most parameters first."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for task, contender in sorted({(row["task"], row["contender"]) for row in rows}):
        own = [row for row in rows if (row["task"], row["contender"]) == (task, contender)]
        points = []
        for focus, sparsity in sorted({(row["focus"], row["sparsity"]) for row in own}):
            same = [row for row in own if (row["focus"], row["sparsity"]) == (focus, sparsity)]
            medians = {
                name: statistics.median(row[name] for row in same)
                for name in ("parameters_kept", "speedup", "retention", "minutes")
            }
            asked = {"focus": focus, "sparsity": sparsity, "seeds": len(same)}
            points.append(asked | medians | {"met": sum(row["met"] for row in same)})
        ordered = sorted(points, key=lambda point: (point["focus"], -point["parameters_kept"]))
        found.setdefault(task, {})[contender] = ordered
    return found


def wall_clock(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where both were measured: the minutes of vtrans and faster-vtrans, and the seconds of their search,
    which is where masks are trained. Both get the same budget, and use it up where it binds."""
    asked = ("task", "seed", "focus", "sparsity")
    fast = {tuple(row[name] for name in asked): row for row in rows if row["contender"] == "faster-vtrans"}
    found = []
    for row in (row for row in rows if row["contender"] == "vtrans"):
        other = fast.get(tuple(row[name] for name in asked))
        if other is None:
            continue
        seconds = [each["stage_seconds"]["search"] for each in (row, other)]
        found.append(
            {name: row[name] for name in asked}
            | {"minutes": [row["minutes"], other["minutes"]], "search_seconds": seconds}
            | {"search_times_faster": seconds[0] / seconds[1], "budget_minutes": row["budget_minutes"]}
        )
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the curves, a line a point."""
    lines = [
        "| task | contender | focus | sparsity | seeds | parameters kept | faster | retention | met |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, by_contender in curves(rows).items():
        for contender, points in by_contender.items():
            lines += [
                f"| {task} | {contender} | {each['focus']} | {each['sparsity']:g} | {each['seeds']} "
                f"| {each['parameters_kept']:.1%} | {each['speedup']:.2f}x | {each['retention']:.2%} "
                f"| {each['met']} of {each['seeds']} |"
                for each in points
            ]
    return "\n".join(lines)


def _kept(case: Case, dense: Dense, rows: Rows, *, again: bool) -> int:
    """Measure and keep a row that is missing; answers 1 where its job failed."""
    if not again and rows.find(case.key) is not None:
        return 0
    try:
        row = measured(case, dense, rows)
    except (JobFailed, EngineError) as error:
        print(f"{case}: {error}", file=sys.stderr, flush=True)
        return 1
    rows.keep(row)
    record("curves", curves(rows.all()), rows.path)
    record("wall_clock", wall_clock(rows.all()), rows.path)
    print(told_row(row), flush=True)
    return 0


def told_row(row: dict[str, Any]) -> str:
    """One line."""
    low, high = row["interval"]
    return (
        f"{row['task']:12} {row['seed']} {row['contender']:13} {row['focus']} {row['sparsity']:g}: "
        f"{row['optimized_metric']:.4f} of {row['dense_metric']:.4f}, drop {row['relative_drop']:+.2%} "
        f"({low:+.2%} to {high:+.2%}), {row['parameters_kept']:.1%} kept, {row['speedup']:.2f}x faster, "
        f"{row['size_reduction']:.2f}x smaller, trained {row['training_seconds']:.0f} s, {row['minutes']} min"
    )


def _task(name: str, rows: int | None, dense_minutes: float | None) -> QualityTask:
    task = QUALITY_TASKS[name]
    if rows is not None:
        task = replace(task, dataset=task.dataset | {"max_train_rows": rows})
    return task if dense_minutes is None else replace(task, dense_minutes=dense_minutes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tuple(QUALITY_TASKS), default=list(TASKS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--sparsities", nargs="+", type=float, default=list(SPARSITIES))
    parser.add_argument("--focus", nargs="+", choices=FOCUSES, default=["size"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, help=f"a job's budget; default: {MINUTES:g}, squad 25")
    parser.add_argument("--rows", type=int, help="training rows drawn at most; default: by task")
    parser.add_argument("--dense-minutes", type=float, help="of fine-tuning; default: by task")
    parser.add_argument("--again", action="store_true", help="measure rows that are there already")
    parser.add_argument("--show", action="store_true", help="print the curves; measure nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=CACHE)
    given = parser.parse_args()
    if not all(0.0 < each < 1.0 for each in given.sparsities):
        parser.error("a sparsity lies between 0 and 1")
    return given


if __name__ == "__main__":
    sys.exit(main())
