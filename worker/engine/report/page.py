"""report.html: the report as one file that opens offline, in light and dark, and on paper.

All text comes from jinja2 with autoescape; the one script is allowed by its hash, and nothing may be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from models.spec.ranges import from_ranges
from worker.engine.report import bars, plots
from worker.engine.report.heat import ATTENTION_STEPS, HeatCell, attention_rows, heat_map, layer_cells
from worker.engine.report.schema import CandidateLine, Part, PartBytes, Report

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_EXAMPLES = 30  # of each kind on the page; report.json has all that holdout.json has
SHOWN_CLASSES = 200
SHOWN_CANDIDATES = 400
CONSTRAINTS = {
    "accuracy.max_relative_drop": "relative drop of the metric",
    "accuracy.max_absolute_drop": "absolute drop of the metric",
    "accuracy.min": "metric",
    "accuracy.max": "metric",
    "accuracy.min_gain": "gain of the metric",
    "size.min_reduction": "size reduction",
    "size.max_bytes": "bytes of the file",
    "speed.min_speedup": "speedup",
    "speed.max_latency_ms": "latency, ms a call",
    "speed.min_throughput": "throughput, examples/s",
}
VERDICTS = {
    "met": "all constraints met",
    "best_effort": "not all constraints met",
    "infeasible": "predicted to be infeasible",
}


def report_page(report: Report) -> str:
    """The whole page."""
    candidates = shown_candidates(report.candidates)
    script = (TEMPLATES / "hover.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
            verdict=VERDICTS[report.verdict],
            plots={
                "candidates": plots.candidates_plot(candidates, report.metric),
                "bytes": bars.bytes_plot(report.bytes),
                "milliseconds": bars.milliseconds_plot(report.milliseconds, whole_name(report)),
                "latency": plots.latency_plot(report.latency) if report.latency.cells else None,
                "timeline": plots.timeline_plot(report.timeline),
            },
            candidates=candidates,
            heads=heat_map(report.significance.elements, "head", "attention"),
            groups=heat_map(report.significance.elements, "group", "ffn"),
            layers=layer_cells(report.significance.elements),
            attention_rows=attention_rows(report.attention.heads),
            attention_steps=ATTENTION_STEPS,
            bytes_by_part=bytes_by_part(report.bytes),
            bytes_by_layer=bytes_by_layer(report.bytes),
            milliseconds_by_layer=milliseconds_by_layer(report),
            whole_name=whole_name(report),
            spec_yaml=yaml.safe_dump(report.reproduction.spec, sort_keys=False, allow_unicode=True),
            shown_examples=SHOWN_EXAMPLES,
            shown_classes=SHOWN_CLASSES,
        )
    )


def shown_candidates(candidates: Sequence[CandidateLine]) -> list[CandidateLine]:
    """Those that the page has room for, by number: the delivered ones, the front, then the last told."""
    by_weight = sorted(candidates, key=lambda each: (not each.delivered, not each.on_front, -each.number))
    return sorted(by_weight[:SHOWN_CANDIDATES], key=lambda each: each.number)


def whole_name(report: Report) -> str:
    """What the model that the search began with is called, by how most of its layers' numbers are stored."""
    if report.milliseconds.whole == report.milliseconds.dense:
        return "dense fp32"
    stored = report.architecture.after.precision
    return f"start, {(stored.ffn if stored.ffn != 'none' else stored.attention).partition(', ')[0]}"


def bytes_by_part(parts: tuple[PartBytes, ...]) -> dict[Part, tuple[int, int]]:
    """(dense, optimized) of each part, all layers together."""
    totals: dict[Part, tuple[int, int]] = {}
    for each in parts:
        dense, optimized = totals.get(each.part, (0, 0))
        totals[each.part] = dense + each.dense, optimized + each.optimized
    return totals


def bytes_by_layer(parts: tuple[PartBytes, ...]) -> dict[int, int]:
    """Of the optimized file, attention and FFN together."""
    totals: dict[int, int] = {}
    for each in parts:
        if each.layer is not None:
            totals[each.layer] = totals.get(each.layer, 0) + each.optimized
    return totals


def milliseconds_by_layer(report: Report) -> dict[int, float]:
    """Of the optimized model, by the latency table."""
    totals: dict[int, float] = {}
    for each in report.milliseconds.parts:
        if each.layer is not None:
            totals[each.layer] = totals.get(each.layer, 0.0) + each.optimized
    return totals


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "mb": lambda size: f"{size / 1e6:,.2f}",
        "percent": lambda share: f"{share:.2%}",
        "signed_percent": lambda share: f"{share:+.2%}",
        "signed": lambda value: f"{value:+.4f}",
        "change": _change,
        "count": lambda number: f"{number:,}",
        "constraint": lambda name: CONSTRAINTS.get(name, name),
        "quantity": _quantity,
        "clock": _clock,
        "indices": from_ranges,
        "runs": _runs,
        "mean_ms": _mean_ms,
        "by_loss": _by_loss,
        "said": _said,
    }
    return environment


def _quantity(value: float, name: str) -> str:
    """A constraint's value in its unit."""
    match name:
        case "accuracy.max_relative_drop":
            return f"{value:.2%}"
        case "size.min_reduction" | "speed.min_speedup":
            return f"{value:.2f}x"
        case "size.max_bytes":
            return f"{value / 1e6:,.2f} MB"
        case _:
            return f"{value:.4g}"


def _runs(ranges: str) -> list[tuple[int, int]]:
    """First index and length of each range of "0-3,7"."""
    spans = (span.partition("-") for span in ranges.split(","))
    return [(int(first), int(last or first) - int(first) + 1) for first, _, last in spans]


def _by_loss(classes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(classes, key=lambda each: each["optimized"]["f1"] - each["dense"]["f1"])


def _mean_ms(cells: Sequence[HeatCell | None]) -> float:
    present = [cell.milliseconds for cell in cells if cell is not None]
    return sum(present) / max(1, len(present))


def _change(value: float) -> str:
    """A loss change in as few signs as a cell has room for: three decimals, no zero before the point."""
    text = f"{value:+.3f}" if abs(value) < 10 else f"{value:+.1f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _said(value: Any) -> str:
    """An answer or a question's part as text, whatever JSON it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
