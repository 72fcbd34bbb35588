"""What the cost model predicts beside what was certified, and beside what exported files take.

    python -m bench.prediction certificates
    python -m bench.prediction structures WORKDIR SPEC

`certificates` reads the rows of bench/results/quality.json and main.json that hold both, counts how many
certified speedups lie within 10 % and size reductions within 2 % of what the search's cost model says of the
delivered recipe, and prints the table of docs/performance.md.

`structures`: WORKDIR holds a run of `axforge optimize` that is past *baseline*, SPEC its job spec. The
latency table is measured anew; then the dense model is narrowed from several depths to several times, and
each structure that comes out is exported, weighed, and timed in turns with the dense model's files, as the
search's sizing does it. Nothing is trained: time and size depend on the shape alone.

Both are written to bench/results/prediction.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.record import machine, record
from models.spec import JobSpec, PruneLayers, Recipe
from worker.engine.measure.files import loaded_bytes
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run
from worker.engine.stages.analyse import measured_table
from worker.engine.stages.baseline import dense_files, quantization
from worker.engine.stages.problem import cost_model, dense_reference, search_problem
from worker.engine.stages.sizing import untrained_file
from worker.engine.stages.timing import timed
from worker.engine.strategies.goal import Goal
from worker.engine.strategies.narrowing import narrow
from worker.engine.workspace import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "prediction.json"
QUALITY, MAIN = RESULTS.with_name("quality.json"), RESULTS.with_name("main.json")
WITHIN = {"speedup": 0.1, "size_reduction": 0.02}
"""How far a prediction may be from what is certified, relative to that."""
CASES = ((0, 1.3), (0, 1.8), (1, 1.5), (2, 1.8), (2, 2.4), (3, 2.2))
"""Layers dropped first, and how many times faster than the whole model in the delivered precision."""


def main() -> None:
    """Compare what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("certificates")
    structures = modes.add_parser("structures")
    structures.add_argument("workdir", type=Path)
    structures.add_argument("spec", type=Path)
    given = parser.parse_args()
    if given.mode == "structures":
        _structures(given.workdir, given.spec)
        return
    rows = [*of_quality(_read(QUALITY)), *of_main(_read(MAIN))]
    record("certificates", {"rows": rows, **within(rows)}, RESULTS)
    print(table(rows))


def predicted(run: Run, recipe: Recipe) -> dict[str, float] | None:
    """What the search's cost model says of a recipe; None in another precision than that it predicts."""
    if recipe.quantization() != quantization(run).quantization():
        return None
    costs, dense = cost_model(run)(run.shape(recipe)), dense_reference(run)
    return {"speedup": dense.ms / costs.ms, "size_reduction": dense.bytes / costs.bytes}


def of_quality(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Of rows as `bench/quality.py` writes them, those that hold a prediction."""
    return [
        _compared(f"{row['task']}, {row['contender']}, seed {row['seed']}", row["predicted"], row)
        for row in document.get("rows", [])
        if row.get("predicted")
    ]


def of_main(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The same of what `bench/main.py` writes."""
    return [
        _compared(f"{task}, main", jobs["axforge"]["predicted"], jobs["axforge"]["certificate"]["ratios"])
        for task, jobs in document.items()
        if jobs["axforge"].get("predicted")
    ]


def _compared(job: str, said: dict[str, float], certified: dict[str, Any]) -> dict[str, Any]:
    """Errors are of the prediction, relative to what was certified."""
    return {"job": job} | {
        name: {
            "predicted": said[name],
            "certified": certified[name],
            "error": said[name] / certified[name] - 1.0,
        }
        for name in WITHIN
    }


def within(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many rows there are, how many of them lie within each bound, and the largest error of either."""
    return {
        "jobs": len(rows),
        "within": {
            name: sum(abs(row[name]["error"]) <= bound for row in rows) for name, bound in WITHIN.items()
        },
        "largest_error": {
            name: max((abs(row[name]["error"]) for row in rows), default=None) for name in WITHIN
        },
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each job and one for the counts."""
    lines = [
        "| job | faster: predicted | certified | error | smaller: predicted | certified | error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row[name]['predicted']:.2f}x | {row[name]['certified']:.2f}x | {row[name]['error']:+.1%}"
            for name in WITHIN
        ]
        lines.append(f"| {row['job']} | {' | '.join(cells)} |")
    counted = within(rows)
    told = [
        f"{counted['within'][name]} of {counted['jobs']} within {bound:.0%}" for name, bound in WITHIN.items()
    ]
    lines.append(f"| all | | | {told[0]} | | | {told[1]} |")
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return document


def _structures(workdir: Path, spec: Path) -> None:
    """Predict and measure every case."""
    run = Run(JobSpec.model_validate_json(spec.read_text()), workdir, SilentReporter())
    folder = run.workspace.folder("analyse")
    write_json(folder / "latency_table.json", measured_table(run).to_json())
    rows: list[dict[str, Any]] = []
    for dropped, faster in CASES:
        rows.append(_case(run, dropped, faster))
        print(rows[-1], flush=True)
        record("structures", {"rows": rows, "machine": machine()}, RESULTS)


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
    file = untrained_file(run, recipe, folder)
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
