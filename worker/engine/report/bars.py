"""The plots of where bytes and milliseconds go: a stacked bar for each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from worker.engine.report.drawing import MEGA, drawn
from worker.engine.report.schema import Milliseconds, PartBytes

PART_NAMES = {
    "embeddings": "embeddings",
    "attention": "attention",
    "ffn": "FFN",
    "head": "head",
    "graph": "graph",
}
PART_COLOURS = [f"var(--part-{name})" for name in PART_NAMES]
TIME_PARTS = {"attention": "attention", "ffn": "FFN", "rest": "embeddings, head and call"}
TIME_COLOURS = ["var(--part-attention)", "var(--part-ffn)", "var(--part-embeddings)", "var(--dense)"]


def bytes_plot(parts: Sequence[PartBytes]) -> Markup:
    """Megabytes by part, of both files."""
    totals: dict[tuple[str, str], float] = {}
    for each in parts:
        for model, size in (("dense", each.dense), ("optimized", each.optimized)):
            totals[model, each.part] = totals.get((model, each.part), 0.0) + size / MEGA
    values = [
        {
            "model": model,
            "part": PART_NAMES[part],
            "place": list(PART_NAMES).index(part),
            "amount": size,
            "told": f"{model}: {PART_NAMES[part]} {size:.2f} MB",
        }
        for (model, part), size in totals.items()
    ]
    return drawn(_bars(values, ["dense", "optimized"], "MB", list(PART_NAMES.values()), PART_COLOURS))


def milliseconds_plot(times: Milliseconds, whole: str) -> Markup:
    """Milliseconds a call: dense as measured, then by part. `whole` is what the dense model at the delivered
    precision is called."""
    names = [*TIME_PARTS.values(), "not taken apart"]
    values = [_bar("dense fp32", "not taken apart", len(TIME_PARTS), times.dense, "ms, measured")]
    for number, (part, name) in enumerate(TIME_PARTS.items()):
        of_part = [each for each in times.parts if each.part == part]
        values.append(_bar(whole, name, number, sum(each.whole for each in of_part), "ms, by the table"))
        values.append(
            _bar("optimized", name, number, sum(each.optimized for each in of_part), "ms, by the table")
        )
    order = ["dense fp32", *([] if whole == "dense fp32" else [whole]), "optimized"]
    if whole == "dense fp32":
        values, names = values[1:], names[:-1]
    return drawn(_bars(values, order, "ms a call", names, TIME_COLOURS[: len(names)]))


def _bar(model: str, part: str, place: int, amount: float, unit: str) -> dict[str, Any]:
    told = f"{model}: {part} {amount:.2f} {unit}"
    return {"model": model, "part": part, "place": place, "amount": amount, "told": told}


def _bars(
    values: Sequence[dict[str, Any]],
    models: Sequence[str],
    unit: str,
    parts: Sequence[str],
    colours: Sequence[str],
) -> dict[str, Any]:
    """Stacked bars, one a model, with their totals."""
    totals: list[dict[str, Any]] = [
        {"model": model, "total": total, "label": f"{total:.2f} {unit.partition(' ')[0]}"}
        for model in models
        for total in [sum(each["amount"] for each in values if each["model"] == model)]
    ]
    y: dict[str, Any] = {"field": "model", "type": "nominal", "sort": list(models), "title": None}
    y["axis"] = {"domain": False, "ticks": False, "labelFontSize": 12}
    longest = max(each["total"] for each in totals)
    return {
        "width": 640,
        "height": {"step": 34},
        "layer": [
            {
                "data": {"values": list(values)},
                "mark": {"type": "bar", "height": 20, "stroke": "var(--page)", "strokeWidth": 1},
                "encoding": {
                    "y": y,
                    "x": {
                        "field": "amount",
                        "type": "quantitative",
                        "title": unit,
                        "stack": "zero",
                        "scale": {"domain": [0, longest * 1.12], "nice": False},
                        "axis": {"tickCount": 6},
                    },
                    "order": {"field": "place"},
                    "color": {
                        "field": "part",
                        "type": "nominal",
                        "scale": {"domain": list(parts), "range": list(colours)},
                    },
                    "description": {"field": "told"},
                },
            },
            {
                "data": {"values": totals},
                "mark": {"type": "text", "align": "left", "dx": 6, "aria": False},
                "encoding": {
                    "y": y,
                    "x": {"field": "total", "type": "quantitative"},
                    "text": {"field": "label"},
                },
            },
        ],
    }
