"""What should have come out, worked out offline from the clicks alone, beside what did."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextclick.bench.agreement import lists_agree
from nextclick.shared.model import Ranking
from nextclick.shared.schemas import Click, Recommendation
from tests.integration.traffic import expected_histories, recommended


@dataclass(frozen=True)
class Verdict:
    """Counts of clicks, and of answers that are not what they should be."""

    sent: int
    answered_once: int
    lost: int
    """Clicks without an answer."""
    doubled: int
    """Clicks answered more than once. At least once allows it, if all answers are the same."""
    wrong_histories: int
    wrong_lists: int
    """Answers that the model they name does not give to the history they name."""

    @property
    def exact(self) -> bool:
        """Nothing lost, nothing wrong."""
        return self.lost == self.wrong_histories == self.wrong_lists == 0


def judge(clicks: Sequence[Click], answers: Sequence[Recommendation], registry: Path) -> Verdict:
    """Compare every answer with what an uninterrupted run would have given."""
    by_id = {click.event_id: click for click in clicks}
    histories = expected_histories(clicks)
    times = Counter(answer.event_id for answer in answers)
    wrong_histories = sum(
        answer.event_id not in by_id
        or answer.user_id != by_id[answer.event_id].user_id
        or answer.click_timestamp != by_id[answer.event_id].timestamp
        or answer.history != histories[answer.event_id]
        for answer in answers
    )
    lists = _Lists(answers, registry)
    return Verdict(
        sent=len(by_id),
        answered_once=sum(times[event_id] == 1 for event_id in by_id),
        lost=sum(times[event_id] == 0 for event_id in by_id),
        doubled=sum(times[event_id] > 1 for event_id in by_id),
        wrong_histories=wrong_histories,
        wrong_lists=sum(not lists.right(answer) for answer in answers),
    )


class _Lists:
    """What each model version recommends to the histories of these answers."""

    def __init__(self, answers: Sequence[Recommendation], registry: Path) -> None:
        self._known: dict[tuple[str, tuple[str, ...]], Ranking] = {}
        histories: dict[str, dict[tuple[str, ...], None]] = defaultdict(dict)
        for answer in answers:
            histories[answer.model_version][tuple(answer.history)] = None
        for version, asked in histories.items():
            rankings = recommended(registry, version, [list(history) for history in asked])
            self._known |= zip(((version, history) for history in asked), rankings, strict=True)

    def right(self, answer: Recommendation) -> bool:
        expected = self._known[answer.model_version, tuple(answer.history)]
        return answer.fallback == expected.fallback and lists_agree(answer.items, expected.items)
