"""ECharts options of the charts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nextclick.services.api.page.stream import Mark, Point

BLUE, GREY, GREEN, ORANGE, RED = "#4f7cff", "#8b93a1", "#22a06b", "#e08a1e", "#e5484d"
_AXIS = {"color": "#8b93a1", "fontSize": 11}
_LINES = {"lineStyle": {"color": "rgba(128,128,128,0.18)"}}
_MARKS = {"swap": BLUE, "rollback": ORANGE, "refusal": RED}
_METHODS = {"model": BLUE, "popularity": GREY, "ceiling": GREEN}


def hit_rates(points: Sequence[Point], marks: Sequence[Mark]) -> dict[str, Any]:
    """HR@10 of each method over time, with marks for swaps, rollbacks and refusals."""
    names = [n for n in _METHODS if any(n in point.hit_rates for point in points)]
    series = [
        _line(
            name,
            [(p.time_ms, _rounded(p.hit_rates.get(name), 4)) for p in points],
            _METHODS[name],
            dashed=name == "ceiling",
        )
        for name in names
    ]
    first = points[0].time_ms if points else 0.0
    shown = [mark for mark in marks if mark.time_ms >= first]
    if series and shown:
        series[0]["markLine"] = {
            "symbol": ["none", "circle"],
            "symbolSize": 7,
            "animation": False,
            "label": {"show": False},
            "data": [
                {
                    "xAxis": mark.time_ms,
                    "name": mark.text,
                    "lineStyle": {"color": _MARKS[mark.kind], "type": "dashed", "width": 1},
                }
                for mark in shown
            ],
        }
    return _options(series, {"min": 0, "max": 1})


def throughput(points: Sequence[Point]) -> dict[str, Any]:
    """Clicks and answers per second."""
    return _options(
        [
            _line("clicks/s", [(p.time_ms, _rounded(p.clicks_per_second)) for p in points], GREY),
            _line("answers/s", [(p.time_ms, _rounded(p.answers_per_second)) for p in points], BLUE),
        ]
    )


def latency(points: Sequence[Point]) -> dict[str, Any]:
    """Latency percentiles from click to answer, ms."""
    series = []
    for place, (name, colour) in enumerate([("p50", BLUE), ("p90", ORANGE), ("p99", RED)]):
        values = [(p.time_ms, _rounded(p.latency_ms and p.latency_ms[place])) for p in points]
        series.append(_line(name, values, colour))
    return _options(series)


def lag(points: Sequence[Point]) -> dict[str, Any]:
    """Consumer lag of the workers: clicks that are not committed yet."""
    return _options([_line("lag", [(p.time_ms, p.lag) for p in points], ORANGE)])


def _rounded(value: float | None, digits: int = 1) -> float | None:
    return None if value is None else round(value, digits)


def _line(
    name: str, values: list[tuple[float, float | None]], colour: str, dashed: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "type": "line",
        "data": values,
        "showSymbol": False,
        "color": colour,
        "lineStyle": {"width": 2, "type": "dashed" if dashed else "solid"},
    }


def _options(series: list[dict[str, Any]], axis: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "animation": False,
        "grid": {"left": 8, "right": 12, "top": 30, "bottom": 4, "containLabel": True},
        "legend": {
            "top": 0,
            "left": 0,
            "itemWidth": 16,
            "itemHeight": 8,
            "textStyle": _AXIS,
            "data": [one["name"] for one in series],
        },
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {"type": "time", "axisLabel": {**_AXIS, "hideOverlap": True}, "splitNumber": 4},
        "yAxis": {"type": "value", "axisLabel": _AXIS, "splitLine": _LINES, **(axis or {})},
        "series": series,
    }
