"""What users did with the lists of a live experiment: from answers in stream order. Pure.

A list is judged by the next click of its user, if the click's type is predicted (as the guard and
the trainer judge): a hit if its item is among the first K. The rate of a user is the weight of the
hits divided by the weight of the judging clicks, so a purchase counts as its weight says. An arm's
mean is over users.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from sys import intern

from nextclick.services.experiments.statistics import (
    ALPHA,
    RATIO_ALPHA,
    Rates,
    Uplift,
    ratio_p_value,
    uplift,
)
from nextclick.shared.experiments import Arm, Experiment
from nextclick.shared.schemas import ExtendedRecommendation

K = 10
"""Items of a list that count."""
SHORT_HISTORY = 3
"""Clicks of a short history, at most."""
MAX_EVENT_TYPES = 10
"""Types with a segment of their own: the first that are seen. Producers may send any number."""
ALL = "all"
_REMEMBERED = 32
"""Newest answers of a user: what a crash can repeat are fewer (MAX_UNCOMMITTED_CLICKS_PER_USER)."""


@dataclass(slots=True)
class _User:
    """Some hundred bytes; there may be a million of them."""

    number: int
    arm: Arm
    answered: tuple[int, ...] = ()
    """Hashes of the events that were answered last."""
    items: tuple[str, ...] = ()
    """Of the last list."""
    history: str = ""
    """The segment of the last list's history."""
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Segment → weight of judging clicks, and of hits among them."""


@dataclass(frozen=True)
class Look:
    """What was known at some time."""

    time_ms: int
    """Epoch milliseconds."""
    judged: int
    uplift: Uplift | None


@dataclass(frozen=True)
class Comparison:
    """One segment: both arms and the difference."""

    segment: str
    a: Rates
    b: Rates
    uplift: Uplift | None
    """None: too few users yet."""


class Outcomes:
    """Counts answers of an experiment."""

    def __init__(
        self,
        experiment: Experiment,
        event_type_of: Callable[[str, str], str],
        weight_of: Callable[[str], float],
    ) -> None:
        """event_type_of(user_id, event_id): of the click that an answer is for. weight_of: of an
        event type as a label; 0 if it judges no list."""
        self.experiment = experiment
        self._event_type_of = event_type_of
        self._weight_of = weight_of
        self._users: dict[str, _User] = {}
        self._rates: dict[str, dict[Arm, Rates]] = {ALL: {"a": Rates(), "b": Rates()}}
        self._event_types: set[str] = set()
        self._times, self._numbers = array("q"), array("q")
        """Of each judging click: the time, and the number of the user."""
        self._weights, self._hits = array("d"), array("d")
        """The weight, and the weight if it was a hit."""
        self.lists: Counter[Arm] = Counter()
        self.judged: Counter[Arm] = Counter()
        self.users: Counter[Arm] = Counter()
        """Users with a list of the experiment, judged or not."""
        self.misplaced = 0
        """Lists that are not by the model of their user's arm; they do not count."""

    def add(self, answer: ExtendedRecommendation) -> None:
        """Count an answer; those of a user in their order, repeated ones too."""
        user = self._users.get(answer.user_id)
        event = hash(answer.event_id)
        if user is not None and event in user.answered:
            return
        placed = answer.experiment
        if placed is None or placed.name != self.experiment.name:
            if user is not None:  # not shown a list of the experiment since
                self._judge(user, answer)
                user.items = ()
            return
        arm = self.experiment.arm_of(answer.user_id)
        if placed.arm != arm or answer.model_version != self.experiment.version_of(arm):
            self.misplaced += 1
            if user is not None:
                user.items = ()
            return
        self.lists[arm] += 1
        if user is None:
            user = self._users[answer.user_id] = _User(len(self._users), arm)
            self.users[arm] += 1
        else:
            self._judge(user, answer)
        user.answered = (*user.answered[1 - _REMEMBERED :], event)
        user.items = tuple([intern(item.item_id) for item in answer.items[:K]])
        short = len(answer.history) <= SHORT_HISTORY
        user.history = f"history ≤ {SHORT_HISTORY}" if short else f"history > {SHORT_HISTORY}"

    def _judge(self, user: _User, answer: ExtendedRecommendation) -> None:
        if not user.items:
            return
        event_type = self._event_type_of(answer.user_id, answer.event_id)
        weight = self._weight_of(event_type)
        if weight <= 0:
            return
        hit = answer.history[-1] in user.items
        self.judged[user.arm] += 1
        self._times.append(answer.scored_at)
        self._numbers.append(user.number)
        self._weights.append(weight)
        self._hits.append(weight * hit)
        segments = [ALL, user.history]
        if event_type in self._event_types or len(self._event_types) < MAX_EVENT_TYPES:
            self._event_types.add(event_type)
            segments.append(f"event {event_type}")
        for segment in segments:
            before = user.sums.get(segment)
            weights, hits = before or (0.0, 0.0)
            after = user.sums[segment] = weights + weight, hits + weight * hit
            rates = self._rates.setdefault(segment, {"a": Rates(), "b": Rates()})[user.arm]
            old = None if before is None else before[1] / before[0]
            rates.replace(old, after[1] / after[0])

    def overall(self) -> Comparison:
        """All lists, with an interval of 95 %."""
        return self._comparison(ALL, ALPHA)

    def segments(self) -> list[Comparison]:
        """The segments; all of their intervals hold together with 95 % (Bonferroni)."""
        names = sorted(self._rates.keys() - {ALL})
        return [self._comparison(name, ALPHA / len(names)) for name in names]

    def over_time(self, looks: int) -> list[Look]:
        """What `overall` would have been after equal numbers of judging clicks."""
        times = self._times
        order = sorted(range(len(times)), key=times.__getitem__)  # partitions were read in turn
        arms = [user.arm for user in self._users.values()]
        rates: dict[Arm, Rates] = {"a": Rates(), "b": Rates()}
        sums = [(0.0, 0.0)] * len(arms)
        ends = {len(order) * (look + 1) // looks for look in range(looks)} - {0}
        found = []
        for done, at in enumerate(order, 1):
            number = self._numbers[at]
            weight, hit = sums[number]
            after = sums[number] = weight + self._weights[at], hit + self._hits[at]
            old = hit / weight if weight else None
            rates[arms[number]].replace(old, after[1] / after[0])
            if done in ends:
                found.append(Look(times[at], done, uplift(rates["a"], rates["b"])))
        return found

    def _comparison(self, segment: str, alpha: float) -> Comparison:
        rates = self._rates[segment]
        return Comparison(segment, rates["a"], rates["b"], uplift(rates["a"], rates["b"], alpha))

    @property
    def ratio_p_value(self) -> float:
        """See `statistics.ratio_p_value`."""
        return ratio_p_value(self.users["a"], self.users["b"], self.experiment.share)


@dataclass(frozen=True)
class Verdict:
    """What to make of it; `kind` is one of a few fixed words."""

    kind: str
    text: str


def verdict(outcomes: Outcomes) -> Verdict:
    """`untrusted`, `early`, `b`, `a` or `open`."""
    users, experiment = outcomes.users, outcomes.experiment
    if (p := outcomes.ratio_p_value) < RATIO_ALPHA:
        share = users["b"] / max(1, users["a"] + users["b"])
        return Verdict(
            "untrusted",
            f"not to be trusted: {share:.1%} of the users are in b where {experiment.share:.1%} "
            f"were to be (p = {p:.1g}); one arm loses users",
        )
    if outcomes.misplaced:
        return Verdict(
            "untrusted",
            f"not to be trusted: {outcomes.misplaced:,} lists are not by the model of their "
            "user's arm",
        )
    found = outcomes.overall().uplift
    if found is None:
        return Verdict("early", "too early: fewer than 100 users of an arm have clicked again")
    if found.low > 0:
        return Verdict("b", f"b is better, by {_points(found)}")
    if found.high < 0:
        return Verdict("a", f"a is better; b is at {_points(found)}")
    return Verdict("open", f"no difference found so far: b is at {_points(found)}")


def _points(found: Uplift) -> str:
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.estimate:+.2f} points ({low:+.2f} to {high:+.2f})"
