"""`make bench-attention`: from which length on attention that reads a few tokens is faster than dense.

One attention call (batch 1) is timed as exported folders run it: dense (torch's fused
`scaled_dot_product_attention`), selective hard attention, and sign matching in both variants, once by
masking all scores and once gathered, which the modelling file takes from `LONG` tokens on. What is timed
takes turns; a figure is the median over the rounds. Gathered answers are compared with masked ones. Lengths
double until the time is used up. On CPU, and on a GPU too where torch has one. Written to
bench/results/attention.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.record import dry, machine, record
from worker.engine.export import axforge_sparse_attention as sparse
from worker.engine.measure.machine import usable_processors

RESULTS = Path(__file__).parent / "results" / "attention.json"
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
HEADS = {"minilm": (12, 32), "bert-base": (12, 64)}
"""Heads and their size."""
TOP_K = 30
ROUNDS = 5
SEED = 0
SECONDS, DRY_SECONDS = 390.0, 20.0
Call = Callable[[], Tensor]


def main() -> None:
    """Time every form at every length that the time allows, and record where each begins to win."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each device")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--dry", action="store_true", help=f"{DRY_SECONDS:.0f} seconds, into out/bench-dry")
    given = parser.parse_args()
    if given.dry:
        given.seconds, given.output = DRY_SECONDS, dry(RESULTS)
    threads = usable_processors()
    torch.set_num_threads(threads)
    record("machine", machine() | {"threads": threads}, given.output)
    record(
        "setting", {"batch": 1, "top_k": TOP_K, "rounds": ROUNDS, "seed": SEED, "dtype": "fp32"}, given.output
    )
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        measured = over_lengths(device, given.seconds)
        if device == "cuda":
            measured["device"] = torch.cuda.get_device_name()
        record(device, measured, given.output)


def over_lengths(device: str, seconds: float) -> dict[str, Any]:
    """Milliseconds by model, length and form, and from which length on each form beats dense attention.

    Shorter lengths come first for all models; what does not fit into `seconds` any more is left out.
    """
    begun = time.monotonic()
    rows: dict[str, dict[str, dict[str, float]]] = {name: {} for name in HEADS}
    for length in LENGTHS:
        for name, (heads, size) in HEADS.items():
            spent = [sum(row.values()) for row in rows[name].values()]
            # Four times the work of half the length, each once to warm up and once a round.
            expected = 4 * (spent[-1] if spent else 0.0) * (ROUNDS + 2) / 1000
            if time.monotonic() - begun + expected > seconds:
                continue
            rows[name][str(length)] = median_ms(forms(length, heads, size, device), device)
            told = "  ".join(f"{form} {ms:.2f}" for form, ms in rows[name][str(length)].items())
            print(f"{device} {name} {length:>5}  {told}", flush=True)
    return {
        name: {
            "heads": HEADS[name][0],
            "head_size": HEADS[name][1],
            "milliseconds": by_length,
            "wins_from": {form: wins_from(by_length, form) for form in _names(by_length)},
        }
        for name, by_length in rows.items()
    }


def forms(length: int, heads: int, size: int, device: str) -> dict[str, Call]:
    """What is timed, on seeded queries, keys and values without padding. Raises where two forms disagree."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (1, heads, length, size)
    query, key, value = (torch.randn(shape, generator=generator).to(device) for _ in range(3))
    scale = size**-0.5

    def of_kind(kind: str) -> Call:
        return lambda: sparse.by_rows(
            lambda rows, mask: _plain(kind, rows, key, value, mask, scale), query, key, None
        )

    def gathered(*, average: bool) -> Call:
        return lambda: sparse.gathered_sign_attention(query, key, value, None, TOP_K, scale, average=average)

    calls = {
        "dense": lambda: F.scaled_dot_product_attention(query, key, value, scale=scale),
        "hard": of_kind("hard"),
        "sign_average_masked": of_kind("sign_average"),
        "sign_softmax_masked": of_kind("sign_softmax"),
        "sign_average": gathered(average=True),
        "sign_softmax": gathered(average=False),
    }
    with torch.inference_mode():
        for kind in ("sign_average", "sign_softmax"):
            torch.testing.assert_close(calls[kind](), calls[f"{kind}_masked"](), atol=1e-4, rtol=1e-4)
    return calls


def _plain(kind: str, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    if kind == "hard":
        return sparse.hard_attention(query, key, value, mask, TOP_K, scale)
    average = kind == "sign_average"
    return sparse.sign_attention(query, key, value, mask, TOP_K, scale, average=average)


def median_ms(calls: dict[str, Call], device: str) -> dict[str, float]:
    """Milliseconds of a call of each form: medians of `ROUNDS` rounds, in which all take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for name, call in calls.items():
                taken[name].append(_milliseconds(call, device))
    return {name: round(float(np.median(each)), 3) for name, each in taken.items()}


def _milliseconds(call: Call, device: str) -> float:
    """Of one call; short ones are repeated for about a hundredth of a second."""
    repeats, spent = 0, 0.0
    while spent < 0.01:
        _synchronize(device)
        begun = time.perf_counter()
        call()
        _synchronize(device)
        spent += time.perf_counter() - begun
        repeats += 1
    return 1000 * spent / repeats


def wins_from(by_length: dict[str, dict[str, float]], form: str) -> int | None:
    """The shortest length from which on a form takes less time than dense attention at every length tried."""
    winning: int | None = None
    for length, row in sorted(((int(length), row) for length, row in by_length.items()), reverse=True):
        if row[form] >= row["dense"]:
            break
        winning = length
    return winning


def _names(by_length: dict[str, dict[str, float]]) -> list[str]:
    return [form for form in next(iter(by_length.values()), {}) if form != "dense"]


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
