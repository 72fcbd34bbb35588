"""`make contract`: the law of the engine on thousands of random pairs; writes bench/results/contract.json.

    python -m tests.contract.run [--first SEED] [--pairs COUNT] [--workers N] [--again] [--write]
    python -m tests.contract.run --seed SEED

Every pair has a seed, and is run again by it. Outcomes are kept under out/contract as long as the code is the
same: a run that was stopped goes on, and processes or machines may share the seeds among them by --first and
--pairs. `--again` forgets them, `--write` writes the result file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.contract.pairs import Outcome, judged, pair_of
from tests.contract.test_heads_law import TOLERANCE
from worker.engine.measure.machine import describe

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "out" / "contract"
RESULT = ROOT / "bench" / "results" / "contract.json"
SOURCES = ("worker/engine", "models/spec", "tests/contract", "tests/engine/export_models.py")
TOLD_EVERY = 100  # pairs


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if the law holds for all pairs, else 1."""
    options = _options(arguments)
    if options.seed is not None:
        return _one(options.seed)
    outcomes = list(_run(options))
    document = summary(outcomes)
    print(json.dumps({**document, "failures": len(document["failures"])}, indent=2))
    for failure in document["failures"]:
        print(f"\nseed {failure['seed']}: {failure['architecture']}, {failure['head']}\n{failure['failure']}")
        print(json.dumps(failure["recipe"]))
    if options.write:
        RESULT.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 1 if document["failures"] else 0


def summary(kept: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts, largest differences and failures of outcomes with their seconds, as JSON."""
    outcomes = [Outcome(**each["outcome"]) for each in kept]
    seeds = [outcome.seed for outcome in outcomes]
    return {
        "pairs": len(outcomes),
        "seeds": [min(seeds), max(seeds)],
        "tolerance": TOLERANCE,
        "seconds": round(sum(each["seconds"] for each in kept), 1),
        "changed": sum(outcome.changed for outcome in outcomes),
        "native": sum(outcome.native for outcome in outcomes),
        "largest_difference": max(outcome.largest for outcome in outcomes),
        "architectures": _by(outcomes, "architecture"),
        "heads": _by(outcomes, "head"),
        "approximations": _steps(seeds),
        "failures": [
            {**outcome.to_json(), "recipe": pair_of(outcome.seed).recipe.model_dump(mode="json")}
            for outcome in outcomes
            if outcome.failure
        ],
        "machine": asdict(describe("cpu", threads=1)),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.contract.run", description=__doc__.split("\n")[0])
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--pairs", type=int, default=2000, metavar="COUNT")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, a thread each")
    parser.add_argument("--again", action="store_true", help="run pairs whose outcome is known, too")
    parser.add_argument("--write", action="store_true", help="write bench/results/contract.json")
    parser.add_argument("--seed", type=int, help="one pair only, told in full")
    return parser.parse_args(arguments)


def _one(seed: int) -> int:
    _quiet()
    pair = pair_of(seed)
    print(f"seed {seed}: {pair.architecture}, {pair.head}\n{pair.recipe.model_dump_json(indent=2)}")
    outcome = judged(pair)
    print(json.dumps({**outcome.to_json(), "failure": ""}, indent=2))
    print(outcome.failure or "the law holds")
    return 1 if outcome.failure else 0


def _run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The outcome of every seed of the range, known or found out now, in any order."""
    wanted = range(options.first, options.first + options.pairs)
    known = {} if options.again else {seed: kept for seed, kept in _known() if seed in wanted}
    left = [seed for seed in wanted if seed not in known]
    print(f"seeds {wanted.start} to {wanted.stop - 1}: {len(known)} known, {len(left)} to run", flush=True)
    yield from known.values()
    folder, begun = KEPT / fingerprint(), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{wanted.start}-{os.getpid()}.jsonl").open("a", encoding="utf-8") as log:
        log.write("\n")  # a run that was killed may have left half a line
        for number, kept in enumerate(_judged_all(left, options.workers), 1):
            log.write(json.dumps(kept) + "\n")
            log.flush()
            if kept["outcome"]["failure"]:
                print(f"seed {kept['outcome']['seed']} FAILED", flush=True)
            if number % TOLD_EVERY == 0:
                print(f"{number} of {len(left)}, {time.monotonic() - begun:.0f} s", flush=True)
            yield kept


def _judged_all(seeds: Sequence[int], workers: int) -> Iterator[dict[str, Any]]:
    if workers == 1:
        _quiet()
        yield from map(_timed, seeds)
        return
    with get_context("spawn").Pool(workers, initializer=_quiet) as pool:
        yield from pool.imap_unordered(_timed, seeds, chunksize=10)


def _timed(seed: int) -> dict[str, Any]:
    begun = time.monotonic()
    outcome = judged(pair_of(seed))
    return {"outcome": outcome.to_json(), "seconds": time.monotonic() - begun}


def _quiet() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _known() -> Iterator[tuple[int, dict[str, Any]]]:
    """Outcomes that runs of the same code have kept, by their seeds."""
    for path in sorted((KEPT / fingerprint()).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                kept = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed
            yield kept["outcome"]["seed"], kept


def fingerprint() -> str:
    """Of the code that outcomes depend on."""
    paths = [path for name in SOURCES for path in _files(ROOT / name)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths))
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def _by(outcomes: Sequence[Outcome], field: str) -> dict[str, dict[str, Any]]:
    """Pairs, failures and the largest difference of each architecture or head."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(getattr(outcome, field), []).append(outcome)
    return {
        name: {
            "pairs": len(group),
            "failures": sum(bool(outcome.failure) for outcome in group),
            "largest_difference": max(outcome.largest for outcome in group),
        }
        for name, group in sorted(groups.items())
    }


def _steps(seeds: Sequence[int]) -> dict[str, int]:
    """In how many recipes each approximation is."""
    counts: dict[str, int] = {}
    for seed in seeds:
        for name in {step.approximation for step in pair_of(seed).recipe.steps}:
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
