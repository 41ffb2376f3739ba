"""Recent clicks become a delta: what they change, and what nobody can change alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from nextclick.shared.model import BST, Checkpoint, Scorer
from nextclick.shared.model.delta import Delta, applied, from_bytes, to_bytes
from nextclick.trainer.data import bound_contributions, click_log
from nextclick.trainer.learn.learning import LEAST_USERS, learn
from tests.unit.builders import CPU, checkpoint

GAP_MS = 1_800_000


def clicks(sessions: list[tuple[str, list[str]]]) -> pd.DataFrame:
    """Sessions of (user, items), one after the other, a click a second."""
    rows = [(user, item) for user, items in sessions for item in items]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    return frame.assign(timestamp=1_700_000_000_000 + 1000 * np.arange(len(frame)))


def learned(frame: pd.DataFrame, base: Checkpoint) -> Delta:
    bounded, _ = bound_contributions(frame, 60)
    delta = learn(click_log(bounded, GAP_MS, 0, 0), base, "v1", "ab", 1)
    assert delta is not None
    from_bytes(to_bytes(delta))  # within its bounds
    applied(delta, base)  # fits
    return delta


def votes_for(delta: Delta, base: Checkpoint, of: str, item: str) -> float:
    """The share of an item among the neighbours of another."""
    changed = applied(delta, base)
    assert isinstance(changed.model, BST)
    row, wanted = changed.vocabulary.rows([of, item])
    of_row = changed.model.neighbours.rows[row]
    return float(changed.model.neighbours.shares[row][of_row == int(wanted)].sum())


def base_without_neighbours() -> Checkpoint:
    base = checkpoint()
    assert isinstance(base.model, BST)
    base.model.neighbours.rows.zero_()
    base.model.neighbours.shares.zero_()
    return base


def test_a_pair_of_one_shopper_changes_the_list_of_another() -> None:
    base = base_without_neighbours()
    delta = learned(clicks([("a", ["5", "9"])]), base)
    assert votes_for(delta, base, "5", "9") > 0
    assert votes_for(delta, base, "9", "5") > 0
    (before,) = Scorer(base, CPU, 10).recommend([["5"]])
    (after,) = Scorer(applied(delta, base), CPU, 10).recommend([["5"]])
    assert before.items != after.items
    assert delta.touched.tolist() == [5, 9]
    assert delta.users.tolist() == [base.popularity[4] + 1, base.popularity[8] + 1]


def test_the_counts_of_the_base_weigh_as_its_users() -> None:
    base = checkpoint()
    before = base.model.neighbours.shares[1].sum().item()  # type: ignore[union-attr, operator]
    delta = learned(clicks([("a", ["1", "30"])]), base)
    changed = float(delta.shares[0].sum())
    assert changed == pytest.approx(before, abs=0.1)
    # "1" has 30 users in the base, "30" one.
    assert votes_for(delta, base, "1", "30") < votes_for(delta, base, "30", "1")


def test_an_item_that_the_base_lacks_is_listed_after_a_few_users() -> None:
    base = base_without_neighbours()
    few = clicks([(f"u{i}", ["5", "new"]) for i in range(LEAST_USERS - 1)])
    assert learned(few, base).new_items == []
    enough = clicks([(f"u{i}", ["5", "new"]) for i in range(LEAST_USERS)])
    delta = learned(enough, base)
    assert delta.new_items == ["new"]
    (ranking,) = Scorer(applied(delta, base), CPU, 10).recommend([["5"]])
    assert "new" in [item.item_id for item in ranking.items]
    (ranking,) = Scorer(applied(delta, base), CPU, 10).recommend([["new"]])
    assert ranking.fallback is None
    assert "5" in [item.item_id for item in ranking.items]


def test_one_user_counts_once_however_often() -> None:
    base = base_without_neighbours()
    honest = [(f"u{i}", ["5", "9"]) for i in range(10)]
    once = learned(clicks([*honest, ("flood", ["5", "7"])]), base)
    often = learned(clicks([*honest, *[("flood", ["5", "7"])] * 20]), base)
    assert votes_for(often, base, "5", "7") <= 2.5 * votes_for(once, base, "5", "7")
    assert votes_for(often, base, "5", "7") < 0.5 * votes_for(often, base, "5", "9")
    alone = learned(clicks([("flood", ["5", "x", "y"])] * 20), base)
    assert alone.new_items == []


def changed_shop(users: int, habit: dict[str, str], seed: int) -> list[tuple[str, list[str]]]:
    """Sessions of two clicks: after each item of a habit its other one."""
    rng = np.random.default_rng(seed)
    first = list(habit)
    return [(f"s{seed}-{i}", [(item := str(rng.choice(first))), habit[item]]) for i in range(users)]


def test_after_a_shock_the_past_is_forgotten_and_a_shop_that_does_not_change_keeps_it() -> None:
    base = checkpoint()
    assert isinstance(base.model, BST)
    base.popularity[:] = 5000
    habit = {str(i): str(i + 10) for i in range(1, 6)}
    for item, then in habit.items():  # what the base knows, and predicts by its neighbours
        base.model.neighbours.rows[int(item), 0] = int(then)
        base.model.neighbours.shares[int(item)] = torch.eye(5)[0]
    same = learned(clicks(changed_shop(300, habit, 1)), base)
    assert votes_for(same, base, "1", "11") > 0.9
    shock = {str(i): str(i + 20) for i in range(1, 6)}
    shocked = learned(clicks(changed_shop(300, shock, 2)), base)
    assert shocked.weight > base.model.neighbours.weight
    assert votes_for(shocked, base, "1", "21") > votes_for(shocked, base, "1", "11")


def test_nothing_is_learned_from_nothing() -> None:
    assert learn(click_log(clicks([]), GAP_MS, 0, 0), checkpoint(), "v1", "ab", 1) is None
