from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nextclick.services.experiments import report
from nextclick.services.experiments.outcomes import MAX_EVENT_TYPES, Outcomes, verdict
from nextclick.services.experiments.statistics import ALPHA, half_width
from nextclick.shared.experiments import Arm, Experiment
from nextclick.shared.schemas import ExperimentArm, ExtendedRecommendation, ScoredItem

EXPERIMENT = Experiment("try", "5a17", "va", "vb", 0.5, datetime(2026, 1, 31, tzinfo=UTC))
WEIGHTS = {"click": 1.0, "purchase": 3.0, "view": 0.0}
USERS = [f"user-{i}" for i in range(4000)]
OF: dict[Arm, list[str]] = {
    "a": [user for user in USERS if EXPERIMENT.arm_of(user) == "a"],
    "b": [user for user in USERS if EXPERIMENT.arm_of(user) == "b"],
}
A, B = OF["a"][0], OF["b"][0]


LIST = [ScoredItem("hit", 0.1), *(ScoredItem(f"other-{i}", 0.01) for i in range(20))]


def answer(
    user: str,
    clicked: str,
    number: int = 0,
    *,
    experiment: str | None = "try",
    arm: Arm | None = None,
    version: str | None = None,
    history: Sequence[str] = (),
) -> ExtendedRecommendation:
    """To a click on an item, with a list of which one item may be hit."""
    arm = arm or EXPERIMENT.arm_of(user)
    return ExtendedRecommendation.model_construct(
        event_id=f"{user}-{number}",
        user_id=user,
        items=LIST,
        model_version=version or EXPERIMENT.version_of(arm),
        history=[*history, clicked],
        click_timestamp=number,
        scored_at=number,
        experiment=ExperimentArm(name=experiment, arm=arm) if experiment else None,
    )


def outcomes(answers: Sequence[ExtendedRecommendation], **types: str) -> Outcomes:
    """types: event type of the clicks of the given event numbers, as n1="purchase"."""
    found = Outcomes(
        EXPERIMENT,
        lambda user, event: types.get("n" + event.rpartition("-")[2], "click"),
        lambda event_type: WEIGHTS.get(event_type, 1.0),
    )
    for one in answers:
        found.add(one)
    return found


def rate(found: Outcomes, arm: Arm) -> tuple[int, float]:
    both = found.overall()
    of = both.a if arm == "a" else both.b
    return of.users, of.mean


def test_a_list_is_judged_by_the_next_click_and_a_first_click_judges_nothing() -> None:
    found = outcomes([answer(A, "hit", number=0), answer(A, "hit", number=1), answer(B, "hit")])
    assert rate(found, "a") == (1, 1.0)
    assert rate(found, "b") == (0, 0.0)
    assert (found.users["a"], found.users["b"]) == (1, 1)
    assert found.lists["a"] == 2


def test_only_the_first_ten_items_count() -> None:
    for item, hits in (("other-8", 1.0), ("other-9", 0.0)):
        assert rate(outcomes([answer(A, "x"), answer(A, item, 1)]), "a")[1] == hits


def test_a_user_counts_once_however_much_is_clicked() -> None:
    robot = [answer(A, "hit", number=n) for n in range(500)]
    person = [answer(OF["a"][1], "miss", number=n) for n in range(2)]
    found = outcomes([*robot, *person])
    assert rate(found, "a") == (2, 0.5)


def test_a_repeated_answer_counts_once() -> None:
    first, second = answer(A, "x", number=0), answer(A, "hit", number=1)
    found = outcomes([first, second, first, second, answer(A, "miss", number=2)])
    assert found.judged["a"] == 2
    assert found.lists["a"] == 3
    assert rate(found, "a") == (1, 0.5)


def test_purchases_count_by_their_weight_and_types_of_weight_0_not_at_all() -> None:
    clicks = [answer(A, item, number=n) for n, item in enumerate(["x", "hit", "miss", "hit"])]
    assert rate(outcomes(clicks, n1="purchase"), "a")[1] == pytest.approx((3 + 0 + 1) / 5)
    ignored = outcomes(clicks, n1="view")
    assert (ignored.judged["a"], rate(ignored, "a")[1]) == (2, 0.5)


def test_lists_outside_the_experiment_are_not_judged() -> None:
    """Before it, in another one, or by a worker that takes no part."""
    outside = answer(A, "hit", number=1, experiment=None, version="other")
    other = answer(A, "hit", number=2, experiment="former")
    found = outcomes([outside, other, answer(A, "x", number=3)])
    assert found.judged.total() == 0
    between = [answer(A, "x", number=0), outside, answer(A, "hit", number=3)]
    found = outcomes(between)
    assert (found.judged["a"], found.lists["a"]) == (1, 2), "the list that was shown is judged"


@pytest.mark.parametrize("how", [{"arm": "b"}, {"version": "other"}])
def test_a_list_of_another_arm_counts_nothing_and_spoils_the_verdict(how: dict[str, str]) -> None:
    wrong = answer(A, "x", **how)  # type: ignore[arg-type]
    found = outcomes([wrong, answer(A, "hit", number=1), answer(A, "hit", number=2)])
    assert (found.misplaced, found.judged["a"]) == (1, 1)
    assert verdict(found).kind == "untrusted"
    assert "1 lists are not by the model of their user's arm" in verdict(found).text


def simulated(rates: dict[Arm, float], users: int, clicks: int = 6) -> Outcomes:
    """Users of both arms in turn; of each the same share hits."""
    rng = np.random.default_rng(0)
    found = outcomes([])
    for number in range(clicks):
        for pair in zip(OF["a"][:users], OF["b"][:users], strict=False):
            for user in pair:
                hit = rng.random() < rates[EXPERIMENT.arm_of(user)]
                clicked = "hit" if hit else "miss"
                history = ["1"] * number
                found.add(answer(user, clicked, number=number, history=history))
    return found


@pytest.mark.parametrize(
    ("in_b", "users", "kind"),
    [(0.7, 700, "b"), (0.1, 700, "a"), (0.405, 700, "open"), (0.7, 99, "early")],
)
def test_verdicts(in_b: float, users: int, kind: str) -> None:
    found = verdict(simulated({"a": 0.4, "b": in_b}, users))
    assert found.kind == kind, found.text


def test_too_few_users_in_an_arm_are_not_to_be_trusted() -> None:
    users = [*OF["a"][:800], *OF["b"][:400]]
    found = outcomes([answer(user, "hit", number=n) for user in users for n in range(2)])
    assert verdict(found).kind == "untrusted"
    assert "33.3% of the users are in b where 50.0% were to be" in verdict(found).text


def test_segments_hold_together() -> None:
    found = simulated({"a": 0.4, "b": 0.5}, 1000)
    names = [one.segment for one in found.segments()]
    assert names == ["event click", "history > 3", "history ≤ 3"]
    for one in found.segments():
        assert one.uplift is not None
        error = (one.a.variance_of_mean + one.b.variance_of_mean) ** 0.5
        assert one.uplift.high - one.uplift.estimate == pytest.approx(half_width(error, ALPHA / 3))


def test_event_types_make_a_bounded_number_of_segments() -> None:
    types = {f"n{n}": f"type-{n}" for n in range(100)}
    found = outcomes([answer(A, "x", number=n) for n in range(100)], **types)
    assert len([one for one in found.segments() if "event" in one.segment]) == MAX_EVENT_TYPES


def test_over_time_ends_with_what_is_known_now() -> None:
    found = simulated({"a": 0.4, "b": 0.5}, 500)
    looks = found.over_time(10)
    assert [look.judged for look in looks] == [500 * n for n in range(1, 11)]
    assert looks[0].time_ms < looks[-1].time_ms
    last, now = looks[-1].uplift, found.overall().uplift
    assert last is not None
    assert now is not None
    assert (last.low, last.high) == pytest.approx((now.low, now.high))
    assert outcomes([]).over_time(10) == []


def test_the_report_as_text_as_json_and_as_a_plot(tmp_path: Path) -> None:
    found = simulated({"a": 0.4, "b": 0.6}, 1000)
    made = report.Report(EXPERIMENT, found, verdict(found), found.over_time(10), ["a note"])
    content = json.loads(json.dumps(report.as_json(made)))
    assert content["verdict"]["kind"] == "b"
    assert content["overall"]["uplift"]["low"] > 0
    assert len(content["over_time"]) == 10
    assert content["users"] == {"a": 1000, "b": 1000}
    console = Console(width=120)
    with console.capture() as shown:
        report.show(made, console)
    text = shown.get()
    assert "b is better, by +" in text
    assert "! a note" in text
    report.plot(made, tmp_path / "uplift.svg")
    assert "lists that a click followed" in (tmp_path / "uplift.svg").read_text()
