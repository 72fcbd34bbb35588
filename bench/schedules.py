"""`make bench-schedules`: one structure, recovered in several ways in the same time.

    python -m bench.schedules [SPEC.yaml] [--speedup 6] [--seconds 210]

The job of the spec (by default the example's) is run up to the end of its search with a bound on speed alone,
and its structure is sized once. Then it is recovered anew for each way in `WAYS`, each time with so many
seconds of the budget left, up to the delivered file. Written to bench/results/schedules.json: the score
on the selection split (of the delivered file) and on the holdout (fp32), the speedup, and the seconds it
trained. The holdout is looked at for this comparison only; nothing is decided by it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bench.main import EXAMPLE, ROOT, base_model
from models.spec import JobSpec, Recipe
from worker.engine.export import load_folder
from worker.engine.pipeline import do_stages
from worker.engine.reporting import STAGES, SilentReporter
from worker.engine.run import Run
from worker.engine.stages.recover import recover
from worker.engine.stages.sizing import sized
from worker.engine.stages.vocabulary import vocabulary_recipe
from worker.engine.tasks import evaluate
from worker.engine.workspace import read_json, write_json

RESULTS = ROOT / "bench" / "results" / "schedules.json"
WAYS: dict[str, dict[str, Any]] = {
    "one_shot": {"schedule": "one_shot"},
    "one_shot_again": {"schedule": "one_shot"},
    "gradual": {"schedule": "gradual"},
    "attention_maps": {"schedule": "one_shot", "attention": 1.0},
}
"""The same way twice tells what two equal runs differ by."""


def main() -> int:
    """Recover in every way and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("spec", nargs="?", type=Path, default=EXAMPLE)
    parser.add_argument("--speedup", type=float, default=6.0)
    parser.add_argument("--seconds", type=float, default=210.0, help="of the budget, left for each recovery")
    arguments = parser.parse_args()
    document = yaml.safe_load(arguments.spec.read_text())
    document["constraints"] = {"speed": {"min_speedup": arguments.speedup}}
    if arguments.spec == EXAMPLE:
        document["base_model"] = {"path": str(base_model())}
        document["dataset"]["path"] = str(EXAMPLE.parent / document["dataset"]["path"])
    with tempfile.TemporaryDirectory(prefix="axforge-schedules-") as folder:
        searched = Path(folder) / "searched"
        first = structure(JobSpec.model_validate(document), searched)
        results = {}
        for name, way in WAYS.items():
            spec = JobSpec.model_validate({**document, "recovery": way})
            workdir = Path(folder) / name
            shutil.copytree(searched, workdir)
            results[name] = recovered(spec, workdir, first, arguments.seconds)
            print(name, json.dumps(results[name]), flush=True)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[document.get("name", "job")] = {"speedup": arguments.speedup, "ways": results}
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return 0


def structure(spec: JobSpec, workdir: Path) -> Recipe:
    """What the search ends with, sized; `workdir` holds the stages up to there."""
    run = Run(spec, workdir, SilentReporter())
    do_stages(run, STAGES[: STAGES.index("recover")])
    searched = run.workspace.result("search")
    assert searched is not None
    folder = run.workspace.folder("recover")
    recipe = sized(
        run, Recipe.model_validate(searched["recipe"]), folder, lambda name, number, total: None
    ).recipe
    shutil.rmtree(folder)
    return vocabulary_recipe(run).then(*recipe.steps)


def recovered(spec: JobSpec, workdir: Path, first: Recipe, seconds: float) -> dict[str, Any]:
    """Recover `first` with so many seconds left, and score its first rung."""
    write_json(workdir / "run.json", {"spec_digest": spec.digest()})
    write_json(workdir / "clock.json", {"seconds": spec.budget.max_minutes * 60 - seconds})
    run = Run(spec, workdir, SilentReporter())
    climb = run.workspace.folder("recover") / "climb.json"
    begun: dict[str, Any] = {"first": first.model_dump(mode="json"), "plan": None, "steps": [], "rungs": []}
    write_json(climb, begun)
    recover(run)
    ended = read_json(climb)
    assert ended is not None
    rung = ended["rungs"][0]
    model = load_folder(climb.parent / "rung-0" / "model")
    holdout = run.origin.encoded(run.data.holdout())
    score = evaluate(model, holdout, run.task, device=run.device).metrics[spec.metric]
    return {
        "selection": rung["metric"],
        "holdout_fp32": score,
        "speedup": rung["speedup"],
        "steps": len(ended["steps"]),
        "last_training_seconds": rung["training_seconds"],
    }


if __name__ == "__main__":
    sys.exit(main())
