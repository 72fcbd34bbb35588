"""`make bench-depth`: which layers to drop, by the loss without them or by how far the answers move.

    AXFORGE_BENCH_DATA=FOLDER python -m bench.depth [cola trec ...] [--most 3] [--seconds 60]

The dense model is that of `bench/quality.py`, with the vocabulary that a job of contender `axforge` begins
with. Layers are dropped one by one, each time the one without which the mean loss on rows of the selection
split is least (AxFormer's exact ablation), or the divergence from the dense model's answers. What is left
after each is distilled for the same seconds. Written to bench/results/depth.json, by task: the loss and
divergence without each layer, and loss and metric of each structure on the selection split. Nothing looks at
the holdout, so that what the search does by default may be chosen by it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from bench.main import ROOT
from bench.quality import CACHE, Asked, Dense, all_at_once, spec_of
from bench.rates import distilled
from bench.record import machine, record
from models.spec import JobSpec, PruneLayers, Recipe
from worker.engine.anatomy import Shape
from worker.engine.pipeline import do_stages
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.fitting import learning_rate
from worker.engine.stages.problem import COMPARED_ROWS, sample
from worker.engine.tasks import evaluate
from worker.engine.tasks.divergence import Divergence

RESULTS = ROOT / "bench" / "results" / "depth.json"
SEED = 0
Dropped = tuple[int, ...]


def main() -> None:
    """Measure every task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="task", default=["cola", "trec"])
    parser.add_argument("--most", type=int, default=3, help="layers that are dropped at most")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each distillation")
    given = parser.parse_args()
    for task in given.tasks:
        with tempfile.TemporaryDirectory(prefix="axforge-depth-") as folder:
            spec = JobSpec.model_validate(spec_of(Dense(task, SEED, CACHE), Asked(), all_at_once))
            run = Run(spec, Path(folder), SilentReporter())
            do_stages(run, ("prepare", "baseline"))
            told = of_run(run, given.most, given.seconds)
        record(task, {"machine": machine(), "seconds": given.seconds, **told}, RESULTS)


def of_run(run: Run, most: int, seconds: float) -> dict[str, Any]:
    """What both orders drop, and what is left of that once it is distilled."""
    rows = sample(run.selection, COMPARED_ROWS[0], SEED)
    anatomy = run.anatomy
    answers = Divergence(anatomy.model, rows, run.task, device=run.device)

    def masked(measure: Callable[[], float]) -> Callable[[Dropped], float]:
        def of(dropped: Dropped) -> float:
            with anatomy.masked(shape_without(run, dropped)):
                return measure()

        return of

    ways = {
        "loss": masked(lambda: evaluate(anatomy.model, rows, run.task, device=run.device).loss),
        "divergence": masked(answers.now),
    }
    without = {name: {str(i): of((i,)) for i in range(anatomy.layers)} for name, of in ways.items()}
    orders = {name: order(anatomy.layers, most, of) for name, of in ways.items()}
    trained: dict[Dropped, dict[str, Any]] = {}
    for dropped in chain.from_iterable(orders.values()):
        if dropped not in trained:
            found = distilled(run, dropped, lambda left: learning_rate(run, left, anatomy.model), seconds)
            trained[dropped] = {"layers": list(dropped)} | found
            print(trained[dropped], flush=True)
    return {
        "dense_loss": ways["loss"](()),
        "without": without,
        "dropped": {name: [trained[each] for each in found] for name, found in orders.items()},
    }


def shape_without(run: Run, dropped: Dropped) -> Shape:
    full = run.anatomy.full_shape()
    return full.applied(Recipe(steps=(PruneLayers(layers=dropped),))) if dropped else full


def order(layers: int, most: int, of: Callable[[Dropped], float]) -> list[Dropped]:
    """The layers dropped after each of the steps, each time those with the least."""
    found: list[Dropped] = [()]
    for _ in range(most):
        left = (layer for layer in range(layers) if layer not in found[-1])
        found.append(min((tuple(sorted((*found[-1], layer))) for layer in left), key=of))
    return found[1:]


if __name__ == "__main__":
    main()
