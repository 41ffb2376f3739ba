"""The report as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nextclick.trainer.compare.report import text
from nextclick.trainer.compare.report.document import Report

_PIPE_WIDTH = 120


def show(report: Report, console: Console) -> None:
    """Print a report."""
    facts = " · ".join(f"{name} {text.fact(number)}" for name, number in report.facts.items())
    console.print(Text(f"{report.data}: {facts}"))
    for problem in report.problems:
        console.print(Text(f"! {problem.text}", style="yellow"))
    # A file or pipe has no width that tables must fit into.
    width = None if console.is_terminal else max(console.width, _PIPE_WIDTH)
    measured = [method for method in report.methods if method.metrics]

    quality = _table("quality: shares in %, ± standard error over cases", text.QUALITY.values())
    for method in measured:
        cells = [
            Text("\n").join([Text(text.value(method, m)), *_dim(text.noise(method, m))])
            for m in text.QUALITY
        ]
        quality.add_row(Text(method.name), *cells)
    console.print(quality, width=width)

    title = "paired difference to the best other method, in points (95 % interval)"
    paired = _table(title, ["HR@20", "MRR@20"])
    for method in measured:
        cells = []
        for metric in ("hr@20", "mrr@20"):
            difference = method.versus.get(metric)
            other = _dim([f"to {difference.other}"] if difference else [])
            cells.append(Text("\n").join([Text(text.versus(method, metric)), *other]))
        paired.add_row(Text(method.name), *cells)
    console.print(paired, width=width)

    if types := [bucket.label for bucket in measured[0].by_event_type] if measured else []:
        by_type = _table("HR@20 by event type", types)
        for method in measured:
            shares = [f"{100 * bucket.hr20:.2f}" for bucket in method.by_event_type]
            by_type.add_row(Text(method.name), *shares)
        console.print(by_type, width=width)

    if probable := [method for method in measured if "ece" in method.metrics]:
        title = "calibration: error of the first item's probability, in % (noise: 95 % of samples)"
        calibration = _table(title, text.CALIBRATION.values())
        for method in probable:
            values = (text.value(method, m) for m in text.CALIBRATION)
            calibration.add_row(Text(method.name), *values)
        console.print(calibration, width=width)

    cost = _table("coverage in % of the catalogue, and time", text.COST.values())
    for method in measured:
        cost.add_row(Text(method.name), *(text.value(method, m) for m in text.COST))
    console.print(cost, width=width)
    for method in report.methods:
        if method.failure:
            console.print(Text(f"! {method.name}: {method.failure}", style="yellow"))
    seeds = ", ".join(map(str, report.seeds))
    where = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    console.print(Text(f"seeds {seeds} · {where}", style="dim"))


def _table(title: str, headings: Iterable[str]) -> Table:
    table = Table("method", title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _dim(lines: Iterable[str]) -> list[Text]:
    return [Text(line, style="dim") for line in lines]
