"""`nextclick evaluate LOG --off-policy`: read a log of drawn lists, judge other models by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nextclick.services.evaluate.off_policy import (
    ESTIMATORS,
    Estimate,
    Estimates,
    Log,
    LoggedList,
    estimate,
    shown_worth,
)
from nextclick.shared.errors import BadRecommendation, ConfigurationError
from nextclick.shared.items import ItemStates
from nextclick.shared.kafka import read_items, read_offsets, retained_offsets
from nextclick.shared.kafka.schema_registry import framed_reader
from nextclick.shared.messages import Headers
from nextclick.shared.model import Constraints, Scorer
from nextclick.shared.profiles import Profile, profile_id
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.masking import printable
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import (
    ExtendedRecommendation,
    ReadFramed,
    Recommendation,
    ScoredItem,
    decode_extended,
)

CURRENT = "current"
_BATCH = 256
_LITTLE_SUPPORT = 0.95
_FEW_LISTS = 100
_PIPE_WIDTH = 120


@dataclass(frozen=True)
class Report:
    """What a log says of some models."""

    log: str
    lists: int
    """With drawn places, and judged."""
    clicked: int
    """Those of them that a click of the same session followed."""
    users: int
    shown: Estimate
    """What the lists were worth that were shown."""
    models: dict[str, Estimates]
    """By version."""
    notes: list[str]
    """What to know before believing it."""


def run(
    settings: Settings, data: str, versions: Sequence[str], device: torch.device, gap_ms: int
) -> Report:
    """Estimate what the lists of some versions would have been worth.

    data: a file with one message a line, or a topic. versions: of the registry, or CURRENT. gap_ms:
    the longest pause within a session. Raises ConfigurationError, NextclickError, Unavailable.
    """
    registry = Registry(settings.registry.url)
    names = [_version(registry, name) for name in dict.fromkeys(versions)]
    log, notes = Log(gap_ms), []
    is_file = Path(data).exists()
    refused = 0
    read_framed = framed_reader(settings.schema_registry, Recommendation)
    for value, headers in _lines(Path(data)) if is_file else _messages(settings, data):
        answer = _decoded(value, headers, read_framed)
        if answer is None:
            refused += 1
        else:
            log.add(answer)
    if refused:
        notes.append(f"{refused:,} × no recommendation: left out")
    lists = log.judged()
    if len({one.user_id for one in lists}) < 2:
        raise ConfigurationError(
            f"{data}: {len(log.lists):,} lists with drawn places ({log.plain:,} without), "
            f"{len(lists):,} of them judged: too few users. Lists are drawn on a topic of "
            "NEXTCLICK_KAFKA__PROFILE_TOPICS whose profile has `exploration`"
        )
    items = ItemStates() if is_file else read_items(settings.kafka).states
    if is_file:
        notes.append("read from a file: what the items topic says of items is not known here")
    of = _profiles(settings, lists, notes)
    models = {}
    for name in names:
        scorer = Scorer(registry.load(name), device, settings.worker.top_k)
        models[name] = estimate(lists, _lists_of(scorer, lists, of, items))
        notes += _notes(name, models[name])
    clicked = sum(one.clicked is not None for one in lists)
    users = len({one.user_id for one in lists})
    return Report(data, len(lists), clicked, users, shown_worth(lists), models, notes)


def _version(registry: Registry, name: str) -> str:
    if name != CURRENT:
        return name
    pointer = registry.pointer()
    if pointer is None:
        raise ConfigurationError(f"the registry {registry.url} has no model yet")
    return pointer.version


def _lines(file: Path) -> Iterator[tuple[bytes, Headers]]:
    try:
        with file.open("rb") as lines:
            for line in lines:
                if line.strip():
                    yield line, ()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read ({error.strerror})") from None


def _messages(settings: Settings, topic: str) -> Iterator[tuple[bytes | None, Any]]:
    retained = retained_offsets(settings.kafka, topic)
    with closing(read_offsets(settings.kafka, topic, retained)) as found:
        for message in found:
            yield message.value, message.headers


def _decoded(
    value: bytes | None, headers: Headers, read_framed: ReadFramed | None
) -> ExtendedRecommendation | None:
    try:
        return decode_extended(value, headers, read_framed)
    except BadRecommendation:
        return None


def _profiles(
    settings: Settings, lists: Sequence[LoggedList], notes: list[str]
) -> Callable[[LoggedList], Profile | None]:
    """The profile of each list, by what messages name; None for one that is not known."""
    known = {profile_id(name, profile): profile for name, profile in settings.profiles.items()}
    unknown = {one.profile for one in lists} - known.keys() - {None}
    for name in sorted(map(str, unknown)):
        notes.append(
            f"NEXTCLICK_PROFILES has no {name}: other lists for it are without constraints"
        )
    return lambda one: None if one.profile is None else known.get(one.profile)


def _lists_of(
    scorer: Scorer,
    lists: Sequence[LoggedList],
    profile_of: Callable[[LoggedList], Profile | None],
    items: ItemStates,
) -> list[list[ScoredItem]]:
    """The lists of a model for the same histories and profiles, as long, and nothing drawn."""

    def constraints(one: LoggedList) -> Constraints:
        profile = profile_of(one)
        profiles = [] if profile is None else [profile]
        return scorer.prepare(profiles, items.attributes)(len(one.shown), False)

    made: list[list[ScoredItem]] = []
    for start in range(0, len(lists), _BATCH):
        part = lists[start : start + _BATCH]
        rankings = scorer.recommend(
            [one.history for one in part], [constraints(one) for one in part], items.withheld
        )
        made += [ranking.items for ranking in rankings]
    return made


def _notes(name: str, found: Estimates) -> Iterator[str]:
    if found.support.high < _LITTLE_SUPPORT:
        yield (
            f"{name}: the log could show {found.support.mean:.0%} of its items; IPS takes the "
            "others to be worthless, SNIPS and DR guess: explore with more candidates"
        )
    if found.effective_lists < _FEW_LISTS:
        yield (
            f"{name}: its clicks weigh as much as {found.effective_lists:.0f} equal ones; "
            "intervals hold from some hundred on"
        )


def as_json(report: Report) -> dict[str, Any]:
    """The report for machines; all worths are shares, not percent."""
    return asdict(report)


def show(report: Report, console: Console) -> None:
    """Print it."""
    console.print(
        f"{report.log}: {report.lists:,} lists with drawn places, of {report.users:,} users; "
        f"{report.clicked:,} were followed by a click of the same session",
        markup=False,
        highlight=False,
    )
    table = Table(
        *("lists of", *(name.upper() for name in ESTIMATORS), "DR − shown", "support"),
        title="share of lists whose items hold the next click: %, and 95 % interval over users",
        title_justify="left",
    )
    table.columns[0].no_wrap = True  # a version that is cut short cannot be copied
    shown = _percent(report.shown)
    table.add_row("as shown", shown, shown, shown, "", "")
    for name, found in report.models.items():
        table.add_row(
            Text(printable(name)),
            *(_percent(found.by[estimator]) for estimator in ESTIMATORS),
            _percent(found.uplift, "+"),
            _percent(found.support),
        )
    console.print(table, width=None if console.is_terminal else max(console.width, _PIPE_WIDTH))
    for note in report.notes:
        console.print(f"! {note}", style="yellow", markup=False, highlight=False)


def _percent(found: Estimate, sign: str = "") -> str:
    mean, low, high = (100 * x for x in (found.mean, found.low, found.high))
    return f"{mean:{sign}.2f}\n{low:{sign}.2f} … {high:{sign}.2f}"
