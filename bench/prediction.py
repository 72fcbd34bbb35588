"""`python -m bench.prediction WORKDIR SPEC`: what the cost model predicts beside what exported files take.

WORKDIR holds a run of `axforge optimize` that is past *baseline*, SPEC its job spec. The latency table is
measured anew; then the dense model is narrowed from several depths to several times, and each structure that
comes out is exported, weighed, and timed in turns with the dense model's files, as the search's sizing does
it. Nothing is trained: time and size depend on the shape alone. Written to bench/results/prediction.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from models.spec import JobSpec, PruneLayers, Recipe
from worker.engine.anatomy.slicing import sliced
from worker.engine.delivery import target_file, write_target_file
from worker.engine.measure.files import loaded_bytes
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.analyse import measured_table
from worker.engine.stages.baseline import dense_files, quantization
from worker.engine.stages.problem import cost_model, search_problem
from worker.engine.stages.timing import timed
from worker.engine.strategies.goal import Goal
from worker.engine.strategies.narrowing import narrow
from worker.engine.workspace import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "prediction.json"
CASES = ((0, 1.3), (0, 1.8), (1, 1.5), (2, 1.8), (2, 2.4), (3, 2.2))
"""Layers dropped first, and how many times faster than the whole model in the delivered precision."""


def main() -> None:
    """Predict and measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("spec", type=Path)
    given = parser.parse_args()
    run = Run(JobSpec.model_validate_json(given.spec.read_text()), given.workdir, SilentReporter())
    folder = run.workspace.folder("analyse")
    write_json(folder / "latency_table.json", measured_table(run).to_json())
    rows: list[dict[str, Any]] = []
    for dropped, faster in CASES:
        rows.append(_case(run, dropped, faster))
        print(rows[-1], flush=True)
        RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def _case(run: Run, dropped: int, faster: float) -> dict[str, Any]:
    whole = cost_model(run)(run.anatomy.full_shape())
    problem = search_problem(run, run.anatomy, Goal(ms=whole.ms / faster), tell=lambda *_: None)
    layers = tuple(range(1, 2 * dropped, 2))
    recipe = Recipe(steps=(PruneLayers(layers=layers),) if layers else ())
    for further, _ in narrow(problem, recipe):
        recipe = further
    shape = run.shape(recipe)
    before = cost_model(run)(shape)
    folder = run.workspace.root / "prediction"
    write_target_file(run, sliced(run.anatomy.model, shape), recipe.then(*quantization(run).steps), folder)
    file = target_file(run, folder)
    size, time = loaded_bytes(file), timed(run, file, *dense_files(run))
    # Timing may have found a less disturbed state; the prediction is carried over to it, as the search does.
    predicted = cost_model(run)(shape)
    return {
        "dropped": dropped,
        "faster": faster,
        "heads": [len(layer.heads) for layer in shape.layers],
        "channels": [len(layer.channels) for layer in shape.layers],
        "predicted_ms": predicted.ms,
        "predicted_ms_before": before.ms,
        "measured_ms": time.ms,
        "ms_error": predicted.ms / time.ms - 1.0,
        "measured_speedup": time.speedup,
        "predicted_bytes": predicted.bytes,
        "measured_bytes": size,
        "bytes_error": predicted.bytes / size - 1.0,
    }


if __name__ == "__main__":
    main()
