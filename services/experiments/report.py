"""The report on an experiment: reads the topics, and shows what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nextclick.services.experiments.outcomes import Comparison, Look, Outcomes, Verdict, verdict
from nextclick.services.experiments.statistics import Rates, Uplift
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.errors import (
    BadClick,
    BadRecommendation,
    ConfigurationError,
    NextclickError,
)
from nextclick.shared.event_types import label_weights_of, weight_of, weights_of
from nextclick.shared.experiments import ARMS, Experiment
from nextclick.shared.kafka import offsets_since, read_offsets, retained_offsets
from nextclick.shared.kafka.schema_registry import framed_reader
from nextclick.shared.messages import Message
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.anomalies import time_bounds
from nextclick.shared.runtime.masking import printable
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import Click, Recommendation, decode_extended

LOOKS = 50
"""Points of the uplift over time."""
_BEFORE_MS = 600_000
"""Topics are read from so long before the start: clocks differ, and clicks wait."""
_COMMON_TYPE = "click"
"""The event type that is not kept for each click, to save memory."""

Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Given how many messages there are to read, makes what is told how many are read."""


@dataclass(frozen=True)
class Report:
    """All that an experiment has shown so far."""

    experiment: Experiment
    outcomes: Outcomes
    verdict: Verdict
    over_time: list[Look]
    notes: list[str]
    """What to know before believing it."""


def find(registry: Registry, name: str | None) -> Experiment:
    """An experiment by its name; None: the newest. Raises ConfigurationError, Unavailable."""
    pointer = registry.pointer()
    experiments = pointer.experiments if pointer is not None else []
    if not experiments:
        raise ConfigurationError("there was no experiment yet: nextclick experiment start")
    for experiment in experiments[::-1]:
        if name in (None, experiment.name):
            return experiment
    known = ", ".join(one.name for one in experiments)
    raise ConfigurationError(f"there was no experiment {name}; there were: {known}")


def _silent(total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda done: None)


def run(settings: Settings, name: str | None = None, progress: Progress = _silent) -> Report:
    """Read the clicks and the recommendations since the start of an experiment.

    Raises ConfigurationError if there is none, Unavailable if a server is away.
    """
    experiment = find(Registry(settings.registry.url), name)
    kafka = settings.kafka
    since = int(experiment.started_at.timestamp() * 1000) - _BEFORE_MS
    topics = (kafka.clicks_topic, kafka.recommendations_topic)
    wanted = {topic: offsets_since(kafka, topic, since) for topic in topics}
    total = sum(len(offsets) for of in wanted.values() for offsets in of.values())
    with progress(total) as show:
        done = 0

        def messages(topic: str) -> Iterator[Message]:
            nonlocal done
            with closing(read_offsets(kafka, topic, wanted[topic])) as found:
                for message in found:
                    done += 1
                    if done % 1000 == 0:
                        show(done)
                    yield message

        types = _event_types(settings, messages(kafka.clicks_topic))
        outcomes = _outcomes(settings, experiment, messages(kafka.recommendations_topic), types)
    notes = []
    retained = retained_offsets(kafka, kafka.recommendations_topic)
    if any(
        len(offsets) and 0 < retained[p].start >= offsets.start
        for p, offsets in wanted[kafka.recommendations_topic].items()
        if p in retained
    ):
        notes.append(
            f"{kafka.recommendations_topic} no longer holds the first lists of the experiment: "
            "this is about the later ones"
        )
    return Report(experiment, outcomes, verdict(outcomes), outcomes.over_time(LOOKS), notes)


def _event_types(settings: Settings, messages: Iterator[Message]) -> dict[int, str]:
    """Hash of a click's user and event → its type, where it is not the common one."""
    read_framed = framed_reader(settings.schema_registry, Click)
    clicks = settings.clicks
    rules = ClickRules(clicks.event_weights, time_bounds(clicks), read_framed=read_framed)
    kept: dict[int, str] = {}
    names: dict[str, str] = {}  # one string for each type, not one for each click
    for message in messages:
        with suppress(BadClick):
            click = rules.read(message)
            if click is not None and click.event_type != _COMMON_TYPE:
                name = names.setdefault(click.event_type, click.event_type)
                kept[hash((click.user_id, click.event_id))] = name
    return kept


def _outcomes(
    settings: Settings, experiment: Experiment, messages: Iterator[Message], types: dict[int, str]
) -> Outcomes:
    labels = label_weights_of(
        weights_of(settings.clicks.event_weights), settings.clicks.label_weights
    )
    weight = lru_cache(1000)(lambda event_type: weight_of(event_type, labels))
    outcomes = Outcomes(
        experiment, lambda user, event: types.get(hash((user, event)), _COMMON_TYPE), weight
    )
    read_framed = framed_reader(settings.schema_registry, Recommendation)
    for message in messages:
        with suppress(BadRecommendation):  # not from a worker
            outcomes.add(decode_extended(message.value, message.headers, read_framed))
    return outcomes


def as_json(report: Report) -> dict[str, Any]:
    """The report for machines; rates and differences are shares, not percent."""
    experiment, outcomes = report.experiment, report.outcomes
    return {
        "experiment": experiment_as_json(experiment),
        "verdict": asdict(report.verdict),
        "users": {arm: outcomes.users[arm] for arm in ARMS},
        "lists": {arm: outcomes.lists[arm] for arm in ARMS},
        "judged": {arm: outcomes.judged[arm] for arm in ARMS},
        "misplaced": outcomes.misplaced,
        "sample_ratio_p_value": outcomes.ratio_p_value,
        "overall": _comparison_as_json(outcomes.overall()),
        "segments": [_comparison_as_json(one) for one in outcomes.segments()],
        "over_time": [
            {"time": _time(look.time_ms), "judged": look.judged, "uplift": _uplift(look.uplift)}
            for look in report.over_time
        ],
        "notes": report.notes,
    }


def experiment_as_json(experiment: Experiment) -> dict[str, Any]:
    """An experiment for machines."""
    ended_at = experiment.ended_at
    return asdict(experiment) | {
        "started_at": experiment.started_at.isoformat(timespec="seconds"),
        "ended_at": ended_at and ended_at.isoformat(timespec="seconds"),
    }


def _comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    def arm(rates: Rates) -> dict[str, float]:
        return {"users": rates.users, "hit_rate": rates.mean}

    return {
        "segment": comparison.segment,
        "a": arm(comparison.a),
        "b": arm(comparison.b),
        "uplift": _uplift(comparison.uplift),
    }


def _uplift(found: Uplift | None) -> dict[str, float] | None:
    return None if found is None else asdict(found)


def show(report: Report, console: Console) -> None:
    """Print it."""
    experiment, outcomes = report.experiment, report.outcomes
    state = f"ended: {experiment.outcome}" if experiment.ended_at else "running"
    console.print(
        f"{experiment.name} ({state}): b gets {experiment.share:.4g} of the users",
        markup=False,
        highlight=False,
    )
    table = Table("arm", "version", "users", "lists", "followed by a click")
    for arm in ARMS:
        table.add_row(
            arm,
            Text(printable(experiment.version_of(arm))),
            f"{outcomes.users[arm]:,}",
            f"{outcomes.lists[arm]:,}",
            f"{outcomes.judged[arm]:,}",
        )
    console.print(table)
    rates = Table(
        *("lists", "users a", "users b", "HR@10 a", "HR@10 b", "b − a, points", "interval"),
        title="mean over users of their hit rates",
        title_justify="left",
    )
    for comparison in (outcomes.overall(), *outcomes.segments()):
        a, b, found = comparison.a, comparison.b, comparison.uplift
        rates.add_row(
            Text(printable(comparison.segment)),
            f"{a.users:,}",
            f"{b.users:,}",
            f"{100 * a.mean:.2f} %",
            f"{100 * b.mean:.2f} %",
            "–" if found is None else f"{100 * found.estimate:+.2f}",
            "too few users"
            if found is None
            else f"{100 * found.low:+.2f} … {100 * found.high:+.2f}",
        )
    console.print(rates, width=None if console.is_terminal else max(console.width, 120))
    console.print(
        "intervals hold at every look: all lists with 95 %, the segments together with 95 %; "
        f"sample ratio p = {outcomes.ratio_p_value:.2g}",
        highlight=False,
    )
    for note in report.notes:
        console.print(f"! {note}", style="yellow", markup=False)
    console.print(report.verdict.text, markup=False, highlight=False)


def plot(report: Report, file: Path) -> None:
    """Draw the uplift over time with its interval."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise NextclickError("--plot needs matplotlib: pip install matplotlib") from None
    looks = [(look, look.uplift) for look in report.over_time if look.uplift is not None]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    judged = [look.judged for look, _ in looks]
    axes.fill_between(
        judged,
        [100 * found.low for _, found in looks],
        [100 * found.high for _, found in looks],
        alpha=0.25,
        label="95 % at every look",
    )
    axes.plot(judged, [100 * found.estimate for _, found in looks], label="b − a")
    axes.axhline(0, color="grey", linewidth=1)
    axes.set(
        xlabel="lists that a click followed",
        ylabel="HR@10, points",
        title=f"{report.experiment.name}: {report.verdict.text}",
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def _time(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="seconds")
