"""Drawing plots: Vega-Lite specs, drawn to SVG when the report is written, so that the page needs no library.

Colours are CSS variables of the page: one drawing serves light and dark. What a mark stands for is its
`aria-label`, which screen readers tell and the page shows when it is pointed at.
"""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

VEGA_LITE = "6.1"
MEGA = 1e6
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "padding": {"left": 10, "right": 10, "top": 6, "bottom": 6},
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink-2)",
        "titleColor": "var(--ink-2)",
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 11,
        "gridColor": "var(--line)",
        "domainColor": "var(--line-2)",
        "tickColor": "var(--line-2)",
        "titlePadding": 8,
        "labelPadding": 6,
    },
    "legend": {
        "labelColor": "var(--ink-2)",
        "titleColor": "var(--ink-2)",
        "labelFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 320,
        "columnPadding": 22,
        "orient": "top",
        "title": None,
    },
    "header": {"labelColor": "var(--ink-2)", "labelFontSize": 12, "title": None},
    "text": {"color": "var(--ink)", "fontSize": 11},
}


def drawn(spec: dict[str, Any]) -> Markup:
    """A Vega-Lite spec as SVG; texts in it are escaped."""
    # Only who draws needs it: the engine must import without.
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg({**spec, "config": CONFIG}, vl_version=VEGA_LITE)
    # Vega completes the addresses of links; these all lead to places of the page.
    return Markup(re.sub(r'(xlink:href=")[^"#]*#', r"\1#", svg))
