"""Records to what people read: pages, tables, files for other tools; and what a panel of the page is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustsuite.core.lazy import lazily

if TYPE_CHECKING:
    from robustsuite.report.panels.charts import Axis, Point, Series, axis, draw
    from robustsuite.report.panels.images import png
    from robustsuite.report.pieces import Charts, Exhibit, Fold, Grid, Section, Strip
else:
    __getattr__ = lazily(
        __name__,
        {
            "Axis": ".panels.charts",
            "Charts": ".pieces",
            "Exhibit": ".pieces",
            "Fold": ".pieces",
            "Grid": ".pieces",
            "Point": ".panels.charts",
            "Section": ".pieces",
            "Series": ".panels.charts",
            "Strip": ".pieces",
            "axis": ".panels.charts",
            "draw": ".panels.charts",
            "png": ".panels.images",
        },
    )

__all__ = [
    "Axis",
    "Charts",
    "Exhibit",
    "Fold",
    "Grid",
    "Point",
    "Section",
    "Series",
    "Strip",
    "axis",
    "draw",
    "png",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
