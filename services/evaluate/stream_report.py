"""What `nextclick evaluate LOG --stream` shows: windows over time, totals, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

from nextclick.services.evaluate.stream import Stretch
from nextclick.shared.windows import IntArray
from nextclick.trainer.compare.report import text
from nextclick.trainer.compare.report.document import Difference
from nextclick.trainer.evaluate import Evaluation, paired_interval
from nextclick.trainer.retrain import Outcome

METRICS = ("hr@20", "mrr@20")
_PIPE_WIDTH = 120


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Mean(_Part):
    """A mean over cases, with its bootstrap 95 % interval over users."""

    mean: float
    low: float
    high: float


class Window(_Part):
    """The clicks from one update to the next."""

    first_click: int
    """Position in the log."""
    first_time: int
    """Its time, epoch ms."""
    cases: int
    """Clicks that were predicted: those that follow one of their session."""
    published: bool
    """Whether the gate let the model of this update serve; else the one before it serves on."""
    reason: str
    """The gate's."""
    seconds: float
    """Of the retraining, with the gate."""
    metrics: dict[str, dict[str, float]]
    """Method → hr@20, mrr@20; empty without cases, or while no model is served."""


class StreamReport(_Part):
    """One prequential evaluation. The totals are over all cases of windows with a served model."""

    format: int = 1
    created_at: str
    data: str
    clicks: int
    every: str
    cases: int
    windows: list[Window]
    totals: dict[str, dict[str, Mean]]
    """Method → hr@20, mrr@20."""
    versus: dict[str, Difference]
    """hr@20, mrr@20 → difference of our model to V-SkNN on the same cases, bootstrap over users."""
    deltas: int = 0
    """Clicks between two deltas; 0: there were none."""
    by_deltas: dict[str, Difference] = {}
    """hr@20, mrr@20 → difference of our model with deltas to that without."""
    problems: list[str]
    environment: dict[str, str]


def summarise(
    stretches: Sequence[Stretch],
    outcomes: Sequence[Outcome],
    times: IntArray,
    *,
    data: str,
    every: str,
    problems: Sequence[str],
    environment: dict[str, str],
    deltas: int = 0,
) -> StreamReport:
    """Build the report.

    outcomes: of the retraining before each stretch. times: of all clicks. deltas: clicks between
    two; the third ranker is the model with them.
    """
    windows = [
        Window(
            first_click=stretch.first,
            first_time=int(times[stretch.first]),
            cases=len(stretch.positions),
            published=outcome.version is not None,
            reason=outcome.reason,
            seconds=outcome.seconds,
            metrics={
                name: {metric: float(_values(ranks, metric).mean()) for metric in METRICS}
                for name, ranks in stretch.ranks.items()
                if len(ranks)
            },
        )
        for stretch, outcome in zip(stretches, outcomes, strict=True)
    ]
    judged = [stretch for stretch in stretches if stretch.ranks and len(stretch.positions)]
    names = list(judged[0].ranks) if judged else []
    users = np.concatenate([stretch.users for stretch in judged]) if judged else np.array([])
    values = {
        name: {
            metric: _values(np.concatenate([s.ranks[name] for s in judged]), metric)
            for metric in METRICS
        }
        for name in names
    }
    totals = {
        name: {metric: _mean(found, users) for metric, found in of_method.items()}
        for name, of_method in values.items()
    }

    def difference(method: str, other: str) -> dict[str, Difference]:
        found = {}
        for metric in METRICS:
            apart = values[method][metric] - values[other][metric]
            low, high = paired_interval(apart, users)
            found[metric] = Difference(
                other=other, difference=float(apart.mean()), low=low, high=high
            )
        return found

    return StreamReport(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        data=data,
        clicks=len(times),
        every=every,
        cases=len(users),
        windows=windows,
        totals=totals,
        versus=difference(*names[:2]) if names else {},
        deltas=deltas,
        by_deltas=difference(names[2], names[0]) if deltas and names else {},
        problems=list(problems),
        environment=environment,
    )


def _values(ranks: IntArray, metric: str) -> npt.NDArray[np.float64]:
    return Evaluation(ranks, auc=float("nan")).per_case(metric)


def _mean(values: npt.NDArray[np.float64], users: IntArray) -> Mean:
    low, high = paired_interval(values, users)
    return Mean(mean=float(values.mean()), low=low, high=high)


def show(report: StreamReport, console: Console) -> None:
    """Print the windows and the totals."""
    console.print(
        f"{report.data}: {report.clicks:,} clicks, updated every {report.every}"
        f"{f', deltas every {report.deltas:,} clicks' if report.deltas else ''}; "
        f"{report.cases:,} clicks predicted",
        markup=False,
    )
    for problem in report.problems:
        console.print(f"! {problem}", style="yellow", markup=False)
    width = None if console.is_terminal else max(console.width, _PIPE_WIDTH)
    names = list(report.totals)
    over_time = Table(
        *("from click", "time", "gate", "retraining, s", "cases"),
        *(f"{metric.upper()} {name}" for metric in METRICS for name in names),
        title="over time: shares in %, of the clicks until the next update",
        title_justify="left",
    )
    for window in report.windows:
        shares = [
            f"{100 * window.metrics[name][metric]:.2f}" if name in window.metrics else "–"
            for metric in METRICS
            for name in names
        ]
        over_time.add_row(
            f"{window.first_click:,}",
            _time(window.first_time),
            "published" if window.published else "refused",
            f"{window.seconds:.1f}",
            f"{window.cases:,}",
            *shares,
        )
    console.print(over_time, width=width)
    if report.totals:
        console.print(_totals(report), width=width)
    else:
        console.print("nothing was predicted: no model was published before the last clicks")
    for window in report.windows:
        if not window.published:
            console.print(
                f"! refused at click {window.first_click:,}: {window.reason}",
                style="yellow",
                markup=False,
            )


def _totals(report: StreamReport) -> Table:
    """HR@20 and MRR@20 of all predicted clicks, and the difference."""
    totals = Table(
        "method",
        *(metric.upper() for metric in METRICS),
        title="in all: shares in %, differences in points (95 % interval over users)",
        title_justify="left",
    )
    for name, of_method in report.totals.items():
        totals.add_row(
            name,
            *(
                f"{100 * m.mean:.2f} ({100 * m.low:.2f} … {100 * m.high:.2f})"
                for m in of_method.values()
            ),
        )
    other = next(iter(report.versus.values())).other
    totals.add_row(f"difference to {other}", *map(text.points, report.versus.values()))
    if report.by_deltas:
        totals.add_row("difference by deltas", *map(text.points, report.by_deltas.values()))
    return totals


def _time(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def plot(report: StreamReport, file: Path) -> None:
    """Plot HR@20 of all methods over the windows, and mark the refused updates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    judged = [window for window in report.windows if window.metrics]
    for name in report.totals:
        shares = [100 * window.metrics[name]["hr@20"] for window in judged]
        axes.plot(
            [window.first_click for window in judged],
            shares,
            marker="o",
            markersize=3.5,
            label=name,
        )
    refused = [window.first_click for window in report.windows if not window.published]
    for number, at in enumerate(refused):
        label = "refused by the gate" if number == 0 else None
        axes.axvline(at, color="grey", linestyle=":", linewidth=1, label=label)
    axes.set(
        xlabel="click of the log at the update",
        ylabel="HR@20 until the next update, %",
        title=report.data,
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)
