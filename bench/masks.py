"""`make bench-masks`: how long masks are trained, and what the structure is worth that they leave.

    AXFORGE_BENCH_DATA=FOLDER python -m bench.masks [sst2] [--sparsity 0.5] [--seconds 60] [--ways vtrans ...]

The dense model is that of `bench/quality.py`. One job of `bench/learned.py` is run up to its analysis; then
its masks are trained in each of `WAYS`, with nothing but the number of examples to end them, and the
structure that each leaves is distilled for the same seconds. Written to bench/results/masks.json, by task,
sparsity and way: steps and seconds of mask training, and loss and metric on the selection split before and
after distillation. Nothing looks at the holdout, so that what a job does by default may be chosen by it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.learned import Case, spec_of
from bench.main import ROOT
from bench.quality import CACHE, Dense
from bench.quality_tasks import QUALITY_TASKS
from bench.record import machine, record
from models.spec import JobSpec, Recipe, StrategyName
from worker.engine.pipeline import do_stages
from worker.engine.reporting import STAGES, SilentReporter
from worker.engine.run import Run
from worker.engine.stages.fitting import judged, learning_rate, recovered, recovery_options
from worker.engine.stages.learning import learned_model
from worker.engine.stages.students import student_of
from worker.engine.stages.vocabulary import vocabulary_recipe
from worker.engine.strategies.vtrans import FastVTrans
from worker.engine.workspace import read_json, write_json

RESULTS = ROOT / "bench" / "results" / "masks.json"
MINUTES = 60.0  # a budget that ends no training of masks


@dataclass(frozen=True)
class Way:
    """A strategy, and how many examples its masks are shown."""

    strategy: StrategyName
    examples: int

    @property
    def name(self) -> str:
        return f"{self.strategy}-{self.examples}"


WAYS = (
    Way("faster-vtrans", 3_200),
    Way("faster-vtrans", 6_400),
    Way("faster-vtrans", 24_000),
    Way("fast-vtrans", 6_400),
    Way("fast-vtrans", 24_000),
    Way("vtrans", 48_000),
)


class _Told(SilentReporter):
    """Keeps what is told of masks."""

    def __init__(self) -> None:
        self.trained: dict[str, Any] = {}

    def event(self, type: str, message: str, **data: Any) -> None:
        if type == "masks.trained":
            self.trained = data


def main() -> None:
    """Measure the ways asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", nargs="?", default="sst2", choices=tuple(QUALITY_TASKS))
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=60.0, help="of distillation after each")
    parser.add_argument("--ways", nargs="+", choices=[way.name for way in WAYS])
    given = parser.parse_args()
    record("machine", machine(), RESULTS)
    dense, key = Dense(given.task, 0, CACHE), f"{given.task}/{given.sparsity:g}"
    with tempfile.TemporaryDirectory(prefix="axforge-masks-") as folder:
        analysed = Path(folder) / "analysed"
        do_stages(_run(Way("vtrans", 1), given, dense, analysed), STAGES[: STAGES.index("search")])
        for way in WAYS:
            if given.ways and way.name not in given.ways:
                continue
            found = measured(way, given, dense, analysed, Path(folder) / "run")
            told = (read_json(RESULTS) or {}).get(key, {})
            record(key, told | {way.name: found}, RESULTS)
            print(way.name, json.dumps(found), flush=True)


def measured(
    way: Way, given: argparse.Namespace, dense: Dense, analysed: Path, folder: Path
) -> dict[str, Any]:
    """What one way takes, and what it leaves."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(analysed, folder)
    told = _Told()
    run = _run(way, given, dense, folder, told)
    do_stages(run, ("search",))
    searched = run.workspace.result("search")
    assert searched is not None
    recipe = vocabulary_recipe(run).then(*Recipe.model_validate(searched["recipe"]).steps)
    student = student_of(run, recipe, (), learned_model(run))
    before = judged(run, student.model)
    options = recovery_options(run, learning_rate(run, student.model, student.before), given.seconds)
    after, _ = recovered(run, student.model, options, stage="recover")
    anatomy = run.anatomy
    return {
        "processor": machine()["processor"],
        "examples": way.examples,
        "steps": told.trained["steps"],
        "mask_seconds": round(told.trained["seconds"], 1),
        "parameters_kept": anatomy.parameters(run.shape(recipe)) / anatomy.parameters(anatomy.full_shape()),
        "undistilled": {"loss": before.loss, "metric": before.metric},
        "distilled": {"loss": after.loss, "metric": after.metric, "seconds": given.seconds},
    }


def _run(
    way: Way, given: argparse.Namespace, dense: Dense, folder: Path, reporter: SilentReporter | None = None
) -> Run:
    case = Case(given.task, 0, way.strategy, "size", given.sparsity, MINUTES)
    document = spec_of(case, dense)
    run = Run(JobSpec.model_validate(document), _made(folder, document), reporter or SilentReporter())
    if run.workspace.result("prepare") is None:
        return run
    rows = len(run.lessons) if way.strategy == "vtrans" else FastVTrans.data_fraction * len(run.train)
    document["learned"] = {"epochs": max(1, round(way.examples / rows))}
    return Run(JobSpec.model_validate(document), _made(folder, document), reporter or SilentReporter())


def _made(folder: Path, document: dict[str, Any]) -> Path:
    """The folder, as one of a run of this spec."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "run.json", {"spec_digest": JobSpec.model_validate(document).digest()})
    return folder


if __name__ == "__main__":
    main()
