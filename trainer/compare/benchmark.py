"""A data set to compare methods on: its clicks, test cases and statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from nextclick.shared.data_problems import Problem
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.item_features import Contents
from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import HISTORY_LENGTH, PADDING, IntArray
from nextclick.trainer.collect import EventLog
from nextclick.trainer.data import (
    ClickLog,
    Samples,
    Split,
    bound_contributions,
    click_log,
    samples,
    weighted,
)
from nextclick.trainer.data.session_files import read_sessions
from nextclick.trainer.evaluate import FloatArray

Oracle = Callable[[Samples, Vocabulary], FloatArray]
"""Cases as rows of a vocabulary → the best possible scores, shape [len(cases), len(vocabulary)].
Only simulated worlds have one."""


@dataclass(frozen=True)
class Benchmark:
    """A data set, split into clicks that methods may learn from, and test cases."""

    name: str
    log: ClickLog
    problems: list[Problem] = field(default_factory=list)
    oracle: Oracle | None = None
    contents: Contents = field(default_factory=dict)
    """What is known about items; those that lists may hold are ranked, though nobody clicked."""

    @cached_property
    def learnable(self) -> ClickLog:
        """The clicks outside the test split: the log that methods are fitted on."""
        return self.log.keep(self.log.split != Split.TEST)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The catalogue that is ranked: items clicked outside the test split, and cold ones."""
        known = Vocabulary([]).extended(self.log.ids_in(Split.TRAIN))
        known = known.extended(self.log.ids_in(Split.VALIDATION))
        return known.extended([i for i, content in self.contents.items() if content.available])

    @cached_property
    def popularity(self) -> IntArray:
        """Clicks per catalogue item outside the test split: shape [items]."""
        return self.log.counts(self.vocabulary)

    @cached_property
    def cases(self) -> Samples:
        """A case for every test click that has an earlier click in its session."""
        return samples(self.log, Split.TEST, self.vocabulary)

    @cached_property
    def sessions(self) -> IntArray:
        """Shape [cases]: a number that identifies the session of each case."""
        return self.log.starts[self.log.cases(Split.TEST)]

    @cached_property
    def event_types(self) -> npt.NDArray[np.object_]:
        """Shape [cases]: the event type of each target; "" if it is not known."""
        return self.log.types_of_cases(Split.TEST)

    @cached_property
    def clicks_before(self) -> IntArray:
        """Shape [cases]: clicks in the session before the target, including unknown items."""
        return self.log.cases(Split.TEST) - self.sessions

    def facts(self) -> dict[str, int | float | str]:
        """Statistics of the data set; floats are shares of the cases."""
        log = self.log
        outside = log.split != Split.TEST
        facts: dict[str, int | float | str] = {
            "training sessions": len(np.unique(log.starts[outside])),
            "training clicks": int(outside.sum()),
            "items": len(self.vocabulary),
            "test sessions": len(np.unique(self.sessions)),
            "test cases": len(self.cases),
            "cold targets": _share(self.cases.targets == PADDING),
            "targets seen earlier in the session": _share(self._repeated()),
            f"histories longer than {HISTORY_LENGTH}": _share(self.clicks_before > HISTORY_LENGTH),
            "histories without a known item": _share((self.cases.histories == PADDING).all(axis=1)),
        }
        if log.last_timestamp:
            facts["first click"] = _day(log.first_timestamp)
            facts["last click"] = _day(log.last_timestamp)
        return facts

    def _repeated(self) -> npt.NDArray[np.bool_]:
        """Shape [cases]: true if the target was clicked earlier in the session."""
        log = self.log
        pair = log.starts * np.int64(len(log.item_ids)) + log.items
        _, first = np.unique(pair, return_index=True)
        new = np.zeros(len(pair), bool)
        new[first] = True  # np.unique gives the first index of each pair
        return ~new[log.cases(Split.TEST)]


def open_event_log(
    url: str,
    gap_ms: int,
    event_weights: Mapping[str, float] | None = None,
    label_weights: Mapping[str, float] | None = None,
    max_per_minute: int | None = None,
) -> Benchmark:
    """Open a trainer's event log, in a folder or an object store.

    gap_ms: the session gap. event_weights, label_weights: see `weighted`. max_per_minute: see
    `bounded`. Raises ConfigurationError if it has no training or test case.
    """
    event_log, name = EventLog(url, read_only=True), Path(url).stem
    clicks, problems = bounded(
        weighted(event_log.read(), event_weights, label_weights), max_per_minute, name
    )
    return Benchmark(name, judgeable_log(clicks, gap_ms, event_log.url), problems)


def bounded(
    frame: pd.DataFrame, max_per_minute: int | None, name: str
) -> tuple[pd.DataFrame, list[Problem]]:
    """Leave out the clicks of bots, as a retraining does; returns the others and what is missing.

    max_per_minute: see `bound_contributions`; None: all clicks count. name: of the data.
    """
    if max_per_minute is None:
        return frame, []
    frame, left_out = bound_contributions(frame, max_per_minute)
    kinds = (
        (left_out.rate, f"click beyond {max_per_minute} of one user in a minute"),
        (left_out.share, f"click beyond the newest {left_out.limit} of one user"),
    )
    consequence = "does not count, as in a retraining; see --all-clicks"
    return frame, [Problem(name, what, consequence, count) for count, what in kinds if count]


def open_session_files(folder: Path) -> Benchmark:
    """Open a folder of session files.

    Raises ConfigurationError if it has no training or test case.
    """
    log, problems = read_sessions(folder)
    return Benchmark(folder.resolve().stem, log, problems)


def judgeable_log(frame: pd.DataFrame, gap_ms: int, name: str) -> ClickLog:
    """The clicks of a frame, sessionised and split by time. name: for errors.

    Raises ConfigurationError if there is nothing to learn from, or nothing to judge by.
    """
    log = click_log(frame, gap_ms)
    learnable = log.keep(log.split != Split.TEST)
    if len(learnable.cases(Split.TRAIN)) == 0 or len(np.unique(learnable.items)) < 2:
        raise ConfigurationError(f"{name}: no session with clicks on two items to learn from")
    if len(log.cases(Split.TEST)) == 0:
        raise ConfigurationError(f"{name}: too few clicks for a test of the newest tenth")
    return log


def _share(mask: npt.NDArray[np.bool_]) -> float:
    return float(np.mean(mask)) if len(mask) else 0.0


def _day(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).date().isoformat()
