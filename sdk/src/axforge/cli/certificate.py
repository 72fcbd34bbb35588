"""The certificate as a table: dense beside optimized, then each constraint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Document = Mapping[str, Any]
VERDICTS = {
    "met": ("constraints met", "bold green"),
    "best_effort": ("constraints not met: this is the best that was found", "bold yellow"),
    "infeasible": ("constraints are predicted to be out of reach, whatever is removed", "bold red"),
}


def render(certificate: Document) -> RenderableType:
    """Everything a user decides by, for a console of any width. Keys: `certificate.json`."""
    parts: list[RenderableType] = [_models(certificate), _interval(certificate)]
    if certificate["constraints"]:
        parts.append(_constraints(certificate))
    parts.append(_verdict(certificate))
    return Group(*parts)


def megabytes(size: float) -> str:
    """Bytes as megabytes (10^6), with the digits that matter."""
    return f"{size / 1e6:.{1 if size >= 1e7 else 2}f} MB"


def count(value: float) -> str:
    """A large count with its suffix: 22.7 M."""
    for limit, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.1f}{suffix}"
    return f"{value:g}"


def _models(certificate: Document) -> Table:
    dense, optimized, ratios = certificate["dense"], certificate["optimized"], certificate["ratios"]
    title = f"Certificate: {certificate['runtime']} on {certificate['device']}"
    if rows := certificate.get("holdout_rows"):
        title += f", {rows} holdout rows"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("dense", "optimized", "ratio"):
        table.add_column(heading, justify="right")
    table.add_row(
        dense["metric"]["name"],
        f"{dense['metric']['value']:.4f}",
        f"{optimized['metric']['value']:.4f}",
        f"{-ratios['relative_drop']:+.2%}",
    )
    _add_row(table, "size", dense["size_bytes"], optimized["size_bytes"], megabytes, "smaller")
    for percentile in ("p50", "p95"):
        slow, fast = dense["latency_ms"][percentile], optimized["latency_ms"][percentile]
        stated = ratios["speedup"] if percentile == "p50" else None
        _add_row(table, f"latency {percentile}", slow, fast, _milliseconds, "faster", stated)
    table.add_row(
        "throughput",
        f"{dense['throughput']:.1f}/s",
        f"{optimized['throughput']:.1f}/s",
        _times(optimized["throughput"], dense["throughput"], "more"),
    )
    _add_row(table, "parameters", dense["parameters"], optimized["parameters"], count, "fewer")
    _add_row(table, "MACs", dense["macs"], optimized["macs"], count, "fewer")
    return table


def _add_row(
    table: Table,
    name: str,
    dense: float,
    optimized: float,
    form: Any,
    better: str,
    stated: float | None = None,
) -> None:
    ratio = _times(dense, optimized, better) if stated is None else f"{stated:.2f}x {better}"
    table.add_row(name, form(dense), form(optimized), ratio)


def _interval(certificate: Document) -> Text:
    low, high = certificate["ratios"]["relative_drop_interval"]
    return Text(f"relative drop, paired 95 % interval: {low:+.2%} to {high:+.2%} (above 0 is worse)")


def _constraints(certificate: Document) -> Table:
    table = Table(title="Constraints", title_justify="left")
    table.add_column("constraint")
    table.add_column("required", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("met")
    for constraint in certificate["constraints"]:
        met = constraint["met"]
        table.add_row(
            constraint["name"],
            _number(constraint["required"]),
            _number(constraint["measured"]),
            Text("yes" if met else "NO", style="green" if met else "bold red"),
        )
    return table


def _verdict(certificate: Document) -> Text:
    words, style = VERDICTS.get(certificate["verdict"], (certificate["verdict"], "bold"))
    return Text(f"Verdict: {words}", style=style)


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def _times(larger: float, smaller: float, better: str) -> str:
    return f"{larger / smaller:.2f}x {better}" if smaller else "-"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
