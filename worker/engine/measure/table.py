"""A certificate as rows of text, for the model card and the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from models.spec import LOWER_IS_BETTER, Certificate, ConstraintResult


@dataclass(frozen=True)
class Row:
    """One line of the before/after table. `ratio` is empty where there is nothing to compare."""

    label: str
    dense: str
    optimized: str
    ratio: str


def comparison_rows(certificate: Certificate) -> tuple[Row, ...]:
    """Metric, latency, throughput, size, parameters and MACs of both models."""
    dense, optimized, ratios = certificate.dense, certificate.optimized, certificate.ratios
    low, high = ratios.relative_drop_interval
    worse = 1 if dense.metric.name in LOWER_IS_BETTER else -1  # the sign of a change for the worse
    change, least, most = (
        worse * part for part in (ratios.relative_drop, *sorted((low, high), reverse=worse < 0))
    )
    return (
        Row(
            dense.metric.name,
            f"{dense.metric.value:.4f}",
            f"{optimized.metric.value:.4f}",
            f"{change:+.2%} (95 %: {least:+.2%} to {most:+.2%})",
        ),
        Row(
            "latency p50, ms",
            f"{dense.latency_ms.p50:.2f}",
            f"{optimized.latency_ms.p50:.2f}",
            f"{ratios.speedup:.2f}x faster",
        ),
        Row("latency p95, ms", f"{dense.latency_ms.p95:.2f}", f"{optimized.latency_ms.p95:.2f}", ""),
        Row(
            "throughput, examples/s",
            f"{dense.throughput:.1f}",
            f"{optimized.throughput:.1f}",
            f"{optimized.throughput / dense.throughput:.2f}x",
        ),
        Row(
            "size, MB",
            f"{dense.size_bytes / 1e6:.2f}",
            f"{optimized.size_bytes / 1e6:.2f}",
            f"{ratios.size_reduction:.2f}x smaller",
        ),
        Row(
            "parameters, M",
            f"{dense.parameters / 1e6:.2f}",
            f"{optimized.parameters / 1e6:.2f}",
            f"{dense.parameters / optimized.parameters:.2f}x fewer",
        ),
        Row(
            "MACs, M",
            f"{dense.macs / 1e6:.1f}",
            f"{optimized.macs / 1e6:.1f}",
            f"{dense.macs / optimized.macs:.2f}x fewer" if optimized.macs else "",
        ),
    )


def constraint_rows(certificate: Certificate) -> tuple[tuple[str, str, str, str], ...]:
    """(name, required, measured, "met" or "not met") of every constraint."""
    return tuple(
        (result.name, f"{result.required:g}", _measured(result), "met" if result.met else "not met")
        for result in certificate.constraints
    )


def _measured(result: ConstraintResult) -> str:
    return f"{result.measured:.0f}" if result.name == "size.max_bytes" else f"{result.measured:.4g}"
