"""The plots of candidates, latencies and time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, floor, log2, log10
from typing import Any

from markupsafe import Markup

from models.spec import metric_value
from models.spec.front import pareto_front
from worker.engine.report.drawing import MEGA, drawn
from worker.engine.report.schema import CandidateLine, LatencyGrid, Timeline

WIDE_RANGE = 4.0  # largest over smallest, from which on an axis counts in factors
ROLES = ["delivered", "on the front", "accepted", "refused"]
SHAPES = ["diamond", "circle", "circle", "triangle-down"]


def candidates_plot(candidates: Sequence[CandidateLine], metric: str) -> Markup:
    """The metric against bytes and against milliseconds, side by side; the front of each pair as a line."""
    measured: list[dict[str, Any]] = [
        {
            "number": each.number,
            "metric": m.metric,
            "megabytes": m.size_bytes / MEGA,
            "ms": m.latency_ms,
            "role": _role(each),
            "told": _told(each, metric),
            "row": f"#candidate-{each.number}",
        }
        for each in candidates
        if (m := each.measurements).metric is not None and m.latency_ms is not None
    ]
    measured.sort(key=lambda each: ROLES.index(each["role"]), reverse=True)  # the delivered one lies on top
    panels = [
        _scatter(measured, "megabytes", "size, MB", metric),
        _scatter(measured, "ms", "latency, ms a call", metric),
    ]
    return drawn({"hconcat": panels, "spacing": 36})


def latency_plot(grid: LatencyGrid) -> Markup:
    """Milliseconds a call by length, a panel for each batch size."""
    values: list[dict[str, Any]] = [
        {
            "length": cell.length,
            "panel": cell.batch_size,
            "model": model,
            "ms": ms,
            "told": f"{model}\n{cell.length} tokens, batch of {cell.batch_size}\n{ms:.2f} ms a call"
            f"\noptimized is {cell.speedup:.2f}x faster",
        }
        for cell in grid.cells
        for model, ms in (("dense", cell.dense_ms), ("optimized", cell.optimized_ms))
    ]
    lengths = sorted({cell.length for cell in grid.cells})
    panels = sorted({cell.batch_size for cell in grid.cells})
    colour = {
        "field": "model",
        "type": "nominal",
        "scale": {"domain": ["dense", "optimized"], "range": ["var(--dense)", "var(--optimized)"]},
    }
    x = {
        "field": "length",
        "type": "quantitative",
        "title": "tokens",
        "scale": {
            "type": "log",
            "base": 2,
            "nice": False,
            "domain": [lengths[0], lengths[-1]],
            "padding": 10,
        },
        "axis": {"values": lengths, "format": "d", "grid": False},
    }
    y = {
        "field": "ms",
        "type": "quantitative",
        "title": "ms a call",
        "scale": {"type": "log", "base": 10},
        "axis": {"values": _round_numbers([each["ms"] for each in values]), "format": "~g"},
    }
    charts = [
        {
            "title": _panel_title(f"batch of {panel}"),
            "width": max(120, 780 // len(panels) - 40),
            "height": 190,
            "data": {"values": [each for each in values if each["panel"] == panel]},
            "encoding": {"x": x, "y": y if panel == panels[0] else {**y, "title": None}, "color": colour},
            "layer": [
                {"mark": {"type": "line", "strokeWidth": 2, "aria": False}},
                {
                    "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                    "encoding": {
                        "description": {"field": "told"},
                        "shape": {
                            "field": "model",
                            "type": "nominal",
                            "scale": {"domain": ["dense", "optimized"], "range": ["square", "circle"]},
                        },
                    },
                },
            ],
        }
        for panel in panels
    ]
    return drawn({"hconcat": charts, "resolve": {"scale": {"y": "shared"}}, "spacing": 24})


def timeline_plot(timeline: Timeline) -> Markup:
    """When each stage ran, in minutes of the run's stopwatch, and the budget's end."""
    values: list[dict[str, Any]] = [
        {
            "stage": each.stage,
            "began": each.began / 60,
            "ended": end / 60,
            "label": f"{end - each.began:.1f} s",
            "told": f"{each.stage}: {end - each.began:.1f} s"
            + (f", {each.attempts} attempts" if each.attempts > 1 else ""),
        }
        for each in timeline.stages
        for end in [timeline.seconds if each.ended is None else each.ended]
    ]
    stages = [each.stage for each in timeline.stages]
    y = {
        "field": "stage",
        "type": "nominal",
        "sort": stages,
        "title": None,
        "axis": {"domain": False, "ticks": False},
    }
    end = max(timeline.budget_seconds / 60, *(each["ended"] for each in values))
    x: dict[str, Any] = {
        "field": "began",
        "type": "quantitative",
        "title": "minutes",
        "scale": {"domain": [0, end * 1.08], "nice": False},
    }
    x["axis"] = {"tickCount": 8}
    return drawn(
        {
            "width": 720,
            "height": {"step": 24},
            "layer": [
                {
                    "data": {"values": values},
                    "mark": {"type": "bar", "color": "var(--optimized)", "height": 13, "cornerRadius": 2},
                    "encoding": {"y": y, "x": x, "x2": {"field": "ended"}, "description": {"field": "told"}},
                },
                {
                    "data": {"values": values},
                    "mark": {"type": "text", "align": "left", "dx": 6, "aria": False},
                    "encoding": {
                        "y": y,
                        "x": {"field": "ended", "type": "quantitative"},
                        "text": {"field": "label"},
                    },
                },
                {
                    "data": {"values": [{"began": timeline.budget_seconds / 60, "told": "the budget's end"}]},
                    "mark": {
                        "type": "rule",
                        "color": "var(--missed)",
                        "strokeDash": [4, 3],
                        "strokeWidth": 1.5,
                    },
                    "encoding": {"x": x, "description": {"field": "told"}},
                },
            ],
        }
    )


def _scatter(values: Sequence[dict[str, Any]], field: str, title: str, metric: str) -> dict[str, Any]:
    amounts = [each[field] for each in values]
    front = pareto_front([(-metric_value(metric, each["metric"]), each[field]) for each in values])
    corners = sorted(
        (each for each, on_it in zip(values, front, strict=True) if on_it), key=lambda each: each[field]
    )
    x: dict[str, Any] = {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False, "nice": False, "padding": 18},
        "axis": {"tickCount": 6},
    }
    if amounts and max(amounts) > WIDE_RANGE * min(amounts) > 0.0:
        x["scale"] = {"type": "log", "base": 2, "nice": False, "padding": 16}
        x["axis"] = {"values": _powers(amounts), "format": "~g"}
    y = {
        "field": "metric",
        "type": "quantitative",
        "title": f"{metric}, selection split" if field == "megabytes" else None,
        "scale": {"zero": False, "nice": False, "padding": 18},
        "axis": {"tickCount": 5},
    }
    role = {"field": "role", "type": "nominal", "sort": ROLES}
    return {
        "width": 365,
        "height": 270,
        "layer": [
            {
                "data": {"values": corners},
                "mark": {
                    "type": "line",
                    "interpolate": "step-after",
                    "color": "var(--line-2)",
                    "strokeWidth": 1.5,
                    "aria": False,
                },
                "encoding": {"x": x, "y": y},
            },
            {
                "data": {"values": list(values)},
                "mark": {"type": "point", "filled": True, "strokeWidth": 1},
                "encoding": {
                    "x": x,
                    "y": y,
                    "href": {"field": "row"},
                    "description": {"field": "told"},
                    "color": {
                        **role,
                        "scale": {"domain": ROLES, "range": [f"var(--role-{n})" for n in range(4)]},
                    },
                    "shape": {
                        **role,
                        "scale": {
                            "domain": ROLES,
                            "range": ["diamond", "circle", "circle", "triangle-down"],
                        },
                    },
                    "size": {
                        **role,
                        "scale": {"domain": ROLES, "range": [190, 90, 60, 55]},
                    },
                    "opacity": {"value": 1},
                },
            },
            {
                "data": {"values": [each for each in values if each["number"] == 0]},
                "mark": {"type": "text", "dy": -14, "aria": False},
                "encoding": {"x": x, "y": y, "text": {"value": "dense"}},
            },
        ],
    }


def _role(candidate: CandidateLine) -> str:
    if candidate.delivered:
        return "delivered"
    if candidate.on_front:
        return "on the front"
    return "accepted" if candidate.accepted else "refused"


def _told(each: CandidateLine, metric: str) -> str:
    m = each.measurements
    lines = [
        f"candidate {each.number} ({each.stage}), {_role(each)}",
        f"{metric} {m.metric:.4f}",
        f"{m.size_bytes / MEGA:.2f} MB",
        f"{m.latency_ms:.2f} ms, {m.latency_source}",
        each.summary,
        each.reason,
    ]
    return "\n".join(lines)


def _powers(amounts: Iterable[float]) -> list[float]:
    """The powers of two between the smallest and the largest, for the ticks of an axis."""
    amounts = list(amounts)
    return [2.0**power for power in range(floor(log2(min(amounts))), ceil(log2(max(amounts))) + 1)]


def _round_numbers(amounts: Sequence[float]) -> list[float]:
    """1, 2 and 5 times the powers of ten that the amounts lie between."""
    low, high = floor(log10(min(amounts))), ceil(log10(max(amounts)))
    return [factor * 10.0**power for power in range(low, high + 1) for factor in (1, 2, 5)]


def _panel_title(text: str) -> dict[str, Any]:
    return {"text": text, "anchor": "start", "fontSize": 12, "fontWeight": "normal", "color": "var(--ink-2)"}
