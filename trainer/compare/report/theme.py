"""Style of the plots: colours for a light and a dark page, lines, axes, and the PNG files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from nextclick.trainer.compare.ceiling import Ceiling
from nextclick.trainer.compare.report.document import MethodReport

_WIDTH, _DPI = 4.6, 180  # inches; text stays legible on a phone at a width of 340 pixels

PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.3g} %")


@dataclass(frozen=True)
class Theme:
    """Colours of one page."""

    ink: str
    muted: str
    grid: str
    bar: str
    lines: tuple[str, ...]


# Line colours are distinguishable for most people with colour vision deficiency, too.
LIGHT = Theme(
    ink="#1f2430",
    muted="#6b7280",
    grid="#e3e6eb",
    bar="#2f6fde",
    lines=("#2f6fde", "#d9730d", "#0b8f6a", "#c2387f", "#7a4fd0", "#0f8ea8", "#7d8a12", "#c93a34"),
)
DARK = Theme(
    ink="#e8eaf0",
    muted="#9aa3b2",
    grid="#343a46",
    bar="#6ea3ff",
    lines=("#6ea3ff", "#ffab57", "#45cfa3", "#f580b8", "#b294ff", "#56cfe8", "#c6d355", "#ff8a80"),
)


@dataclass(frozen=True)
class Plot:
    """One plot as PNG, for a light and a dark page."""

    title: str
    caption: str
    light: bytes
    dark: bytes


def draw(title: str, caption: str, height: float, content: Callable[[Axes, Theme], None]) -> Plot:
    """Draw one plot in both themes. height: inches; content: draws into the axes."""
    images = []
    for theme in (LIGHT, DARK):
        with mpl.rc_context({"font.size": 9.5, "text.color": theme.ink}):
            figure = Figure(figsize=(_WIDTH, height), layout="constrained")
            axes = figure.add_subplot()
            axes.set_axisbelow(True)
            axes.grid(color=theme.grid, linewidth=0.8)
            axes.tick_params(colors=theme.muted, length=0)
            axes.spines[:].set_visible(False)
            content(axes, theme)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=_DPI, transparent=True)
            images.append(file.getvalue())
    return Plot(title, caption, *images)


def styled(
    methods: Sequence[MethodReport], theme: Theme
) -> Iterator[tuple[MethodReport, dict[str, Any]]]:
    """Each method with its colour, line style and marker, the same in every plot."""
    colours = cycle(theme.lines)
    for place, method in enumerate(methods):
        ceiling = method.name == Ceiling.name
        yield (
            method,
            {
                "label": method.name,
                "color": theme.muted if ceiling else next(colours),
                "linestyle": "--" if ceiling else ("-", "-.", ":")[place // len(theme.lines) % 3],
                "linewidth": 1.6,
                "marker": "" if ceiling else "os^Dv"[place % 5],
                "markersize": 3.5,
            },
        )


def percent_from_zero(axes: Axes) -> None:
    """Format the y axis as percentages, starting at 0."""
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PERCENT)


def legend(axes: Axes, theme: Theme) -> None:
    """Put the legend below the plot, so that it hides no line."""
    axes.figure.legend(
        loc="outside lower center", ncols=2, frameon=False, labelcolor=theme.ink, fontsize=9
    )
