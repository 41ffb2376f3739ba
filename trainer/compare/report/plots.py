"""The plots of a report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nextclick.trainer.compare.ceiling import Ceiling
from nextclick.trainer.compare.report import text
from nextclick.trainer.compare.report.document import Bucket, MethodReport, Report
from nextclick.trainer.compare.report.theme import (
    PERCENT,
    Plot,
    Theme,
    draw,
    legend,
    percent_from_zero,
    styled,
)


def plots(report: Report) -> list[Plot]:
    """Draw all plots for which the report has data."""
    methods = [method for method in report.methods if method.metrics]
    if not methods:
        return []
    drawn = [
        draw(
            text.QUALITY[metric],
            "Bars: mean over the cases; whiskers: ± one standard error.",
            0.9 + 0.34 * len(methods),
            partial(_bars, methods, metric),
        )
        for metric in ("hr@20", "mrr@20", "hr@10", "ndcg@10")
    ]
    below = 0.19 * -(-len(methods) // 2)
    drawn.append(
        draw(
            "HR@k",
            "Share of the cases whose target is among the first k.",
            3.4 + below,
            partial(_hr_at, methods),
        )
    )
    for title, attribute, caption in (
        (
            "HR@20 by history length",
            "by_history_length",
            "Clicks in the session before the target, and cases.",
        ),
        (
            "HR@20 by item popularity",
            "by_popularity",
            "Fifths of the training clicks by how popular the target is: items, and cases.",
        ),
    ):
        buckets = [getattr(method, attribute) for method in methods]
        if len(buckets[0]) > 1:  # with a single bucket, the bars show the same
            caption += " Whiskers: ± one standard error."
            drawn.append(draw(title, caption, 3.6 + below, partial(_by_bucket, methods, buckets)))
    trained = sum(bool(method.curve) for method in methods)
    if trained:
        below = 0.19 * -(-trained // 2)
        drawn.append(
            draw(
                "Training: NDCG on the validation",
                "By seconds of fitting; each dot is an epoch. First seed.",
                3.4 + below,
                partial(_training, methods),
            )
        )
        drawn.append(
            draw(
                "Training: loss",
                "Solid: validation; dashed: training. Methods may use different losses.",
                3.4 + below,
                partial(_loss, methods),
            )
        )
    return drawn


def _bars(methods: Sequence[MethodReport], metric: str, axes: Axes, theme: Theme) -> None:
    """Horizontal bars with the best method on top; the ceiling's bar is not filled."""
    by_mean = sorted(methods, key=lambda method: method.metrics[metric].mean)
    for place, method in enumerate(by_mean):
        estimate = method.metrics[metric]
        hollow = method.name == Ceiling.name
        axes.barh(
            place,
            estimate.mean,
            height=0.68,
            color="none" if hollow else theme.bar,
            edgecolor=theme.muted if hollow else theme.bar,
            linestyle="--" if hollow else "-",
        )
        error = estimate.standard_error or 0.0
        axes.errorbar(estimate.mean, place, xerr=error, color=theme.ink, capsize=2.5, linewidth=1.2)
        axes.annotate(
            f"{100 * estimate.mean:.1f}",
            (estimate.mean + error, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(by_mean)), [m.name for m in by_mean], color=theme.ink)
    axes.grid(visible=False, axis="y")
    best = max(m.metrics[metric].mean + (m.metrics[metric].standard_error or 0.0) for m in by_mean)
    axes.set_xlim(0, 1.14 * best or 1.0)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _hr_at(methods: Sequence[MethodReport], axes: Axes, theme: Theme) -> None:
    for method, style in styled(methods, theme):
        axes.plot(range(1, len(method.hr_at) + 1), method.hr_at, **{**style, "marker": ""})
    axes.set_xlabel("k", color=theme.muted)
    axes.set_xlim(1, max(len(method.hr_at) for method in methods))
    percent_from_zero(axes)
    legend(axes, theme)


def _by_bucket(
    methods: Sequence[MethodReport], buckets: Sequence[list[Bucket]], axes: Axes, theme: Theme
) -> None:
    for (_, style), parts in zip(styled(methods, theme), buckets, strict=True):
        axes.errorbar(
            range(len(parts)),
            [part.hr20 for part in parts],
            yerr=[part.hr20_error or 0.0 for part in parts],
            capsize=2,
            elinewidth=0.8,
            **style,
        )
    labels = [f"{part.label}\n({part.cases:,})".replace(": ", "\n") for part in buckets[0]]
    axes.set_xticks(range(len(labels)), labels)
    percent_from_zero(axes)
    legend(axes, theme)


def _training(methods: Sequence[MethodReport], axes: Axes, theme: Theme) -> None:
    for method, style in styled(methods, theme):
        if method.curve:
            seconds = [point.seconds for point in method.curve]
            axes.plot(seconds, [_or_gap(point.validation_ndcg) for point in method.curve], **style)
    axes.set_xlabel("seconds", color=theme.muted)
    percent_from_zero(axes)
    legend(axes, theme)


def _loss(methods: Sequence[MethodReport], axes: Axes, theme: Theme) -> None:
    for method, style in styled(methods, theme):
        if not method.curve:
            continue
        epochs = [point.epoch for point in method.curve]
        axes.plot(epochs, [_or_gap(point.validation_loss) for point in method.curve], **style)
        dashed = {**style, "linestyle": "--", "marker": "", "label": None}
        axes.plot(epochs, [_or_gap(point.train_loss) for point in method.curve], **dashed)
    axes.set_xlabel("epoch", color=theme.muted)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes, theme)


def _or_gap(number: float | None) -> float:
    return float("nan") if number is None else number
