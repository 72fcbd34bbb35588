"""`make bench-service`: how fast the API is, and how flat it stays; into bench/results/service.json.

    python -m bench.service [throughput streams recovery transfers]

Each part starts its own servers: `axforge serve` as an operator starts it, real sockets, SQLite and
the Postgres of AXFORGE_BENCH_POSTGRES. What is a ratio was measured in one run, in turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from bench import recovery, streams, throughput, transfers
from bench.record import machine, record

BACKENDS = ("sqlite", "postgresql")
PARTS: dict[str, tuple[Callable[[str], dict[str, Any]], tuple[str, ...]]] = {
    "throughput": (throughput.measure, BACKENDS),
    "streams": (streams.measure, BACKENDS),
    "recovery": (recovery.measure, BACKENDS),
    "transfers": (transfers.measure, transfers.STORES),
}


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    for part in arguments.parts or PARTS:
        measure, variants = PARTS[part]
        measured = {variant: measure(variant) for variant in variants}
        record(part, {**measured, "machine": machine()})
        print(part, json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
