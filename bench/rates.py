"""`make bench-rates`: how fast a student is to learn, by how much it has lost.

    AXFORGE_BENCH_DATA=FOLDER python -m bench.rates [sst2 trec ...] [--drop 2,3,4 1,2,3,4,5]
        [--factors 5 2.5 1.25] [--seconds 100]

The dense model is that of `bench/quality.py`, with the vocabulary that a job of contender `axforge` begins
with. Each set of layers is dropped, and what is left is distilled at each factor of the fine-tuning rate for
the same seconds. Written to bench/results/rates.json, by task and layers: steps, and loss and metric on the
selection split. Nothing looks at the holdout, so that what recovery does by default may be chosen by it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bench.main import ROOT
from bench.quality import CACHE, Asked, Dense, all_at_once, spec_of
from bench.record import machine, record
from models.spec import JobSpec, PruneLayers
from worker.engine.pipeline import do_stages
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.fitting import recovered, recovery_options
from worker.engine.stages.students import student_of
from worker.engine.stages.vocabulary import vocabulary_recipe
from worker.engine.training.fine_tune import default_learning_rate

RESULTS = ROOT / "bench" / "results" / "rates.json"
FACTORS = (5.0, 2.5, 1.25)


def main() -> None:
    """Measure every task, set of layers and factor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="task", default=["sst2", "trec"])
    parser.add_argument("--drop", nargs="+", type=_layers, default=[(2, 3, 4), (1, 2, 3, 4, 5)])
    parser.add_argument("--factors", nargs="+", type=float, default=list(FACTORS))
    parser.add_argument("--seconds", type=float, default=100.0, help="of each distillation")
    given = parser.parse_args()
    record("machine", machine(), RESULTS)
    for task in given.tasks:
        with tempfile.TemporaryDirectory(prefix="axforge-rates-") as folder:
            spec = JobSpec.model_validate(spec_of(Dense(task, 0, CACHE), Asked(), all_at_once))
            run = Run(spec, Path(folder), SilentReporter())
            do_stages(run, ("prepare", "baseline"))
            for layers in given.drop:
                found = [measured(run, layers, factor, given.seconds) for factor in given.factors]
                key = f"{task}/without {','.join(map(str, layers))}/{given.seconds:g} s"
                record(key, found, RESULTS)
                print(key, *found, sep="\n", flush=True)


def measured(run: Run, layers: Sequence[int], factor: float, seconds: float) -> dict[str, Any]:
    """One distillation at so many times the fine-tuning rate."""
    told = distilled(run, layers, lambda student: factor * default_learning_rate(student), seconds)
    return {"factor": factor} | told


def distilled(
    run: Run, layers: Sequence[int], rate: Callable[[PreTrainedModel], float], seconds: float
) -> dict[str, Any]:
    """What is left without the layers, distilled as recovery does it; `rate` is that of the student."""
    recipe = vocabulary_recipe(run).then(PruneLayers(layers=tuple(layers)))
    student = student_of(run, recipe, ()).model
    after, fitted = recovered(run, student, recovery_options(run, rate(student), seconds), stage="recover")
    return {
        "steps": 0 if fitted is None else fitted.steps,
        "seconds": 0.0 if fitted is None else round(fitted.seconds, 1),
        "loss": after.loss,
        "metric": after.metric,
        "rows": len(run.selection),
    }


def _layers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
