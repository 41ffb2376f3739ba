"""Related items: counted as a plain program counts them, and the properties of the measure."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch.nn import functional

from nextclick.shared.model import Vocabulary
from nextclick.shared.model.related import MAX_RELATED, from_bytes, to_bytes
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.data import ClickLog, click_log
from nextclick.trainer.fit import related as related_module
from nextclick.trainer.fit.related import (
    SHRINKAGE,
    VECTOR_WEIGHT,
    closest,
    cosines,
    nearest,
    related_lists,
)
from tests.unit.builders import bst

MINUTE = 60_000


def log_of(*sessions: str, types: str | None = None) -> ClickLog:
    """Each session is a user and their clicks: "u:abc". types: a letter for each click."""
    clicks = [
        (user, item, (number * 1000 + place) * MINUTE)
        for number, (user, items) in enumerate(s.split(":") for s in sessions)
        for place, item in enumerate(items)
    ]
    frame = pd.DataFrame(clicks, columns=["user_id", "item_id", "timestamp"])
    if types is not None:
        frame["event_type"] = ["Purchase" if letter == "p" else "view" for letter in types]
    return click_log(frame, gap_ms=30 * MINUTE)


def relations(log: ClickLog) -> dict[str, float]:
    """The table of all clicks, as "ab" → relation."""
    ids = sorted(log.item_ids)
    table = cosines(log, Vocabulary(ids).rows(log.item_ids)[log.items], len(ids)).tocoo()
    found = zip(table.row, table.col, table.data, strict=True)
    return {ids[i] + ids[j]: float(value) for i, j, value in found}


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_a_plain_program_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    letters = "abcdefgh"
    sessions = [
        f"{user}:" + "".join(rng.choice(list(letters), rng.integers(1, 15)))
        for user in rng.integers(0, 6, 12)
    ]
    together, alone = defaultdict(set), defaultdict(set)
    for user, items in (session.split(":") for session in sessions):
        for item in items:
            alone[item].add(user)
        for i, j in itertools.combinations(range(len(items)), 2):
            if j - i <= HISTORY_LENGTH and items[i] != items[j]:
                together[items[i] + items[j]].add(user)
                together[items[j] + items[i]].add(user)
    expected = {
        pair: len(users)
        / np.sqrt((len(alone[pair[0]]) + SHRINKAGE) * (len(alone[pair[1]]) + SHRINKAGE))
        for pair, users in together.items()
    }
    assert relations(log_of(*sessions)) == pytest.approx(expected)


def test_it_is_symmetric_never_the_item_itself_and_below_one() -> None:
    found = relations(log_of(*(f"{user}:abab" for user in range(500)), "x:cad"))
    assert all(found[pair] == found[pair[::-1]] for pair in found)
    assert not any(pair[0] == pair[1] for pair in found)
    assert 0.9 < found["ab"] < 1


def test_one_user_counts_once_and_a_session_does_not_reach_into_the_next() -> None:
    once = relations(log_of("u:ab", "v:ac"))
    assert relations(log_of("u:abababab", "u:ba", "v:ac")) == once
    assert once.keys() == {"ab", "ba", "ac", "ca"}


def test_what_is_popular_is_not_close_to_all() -> None:
    """`p` is clicked by everybody: with `a` by more users than `b` is, and yet `b` is closer."""
    crowd = [f"p{user}:pq" for user in range(2000)]
    with_crowd = [f"a{user}:pa" for user in range(40)]
    alone = [f"b{user}:ab" for user in range(30)]
    found = relations(log_of(*crowd, *with_crowd, *alone))
    assert found["ab"] > found["ap"]


def test_few_users_are_no_evidence() -> None:
    """One of one user is less than thirty of sixty, though all of it."""
    found = relations(
        log_of("x:yz", *(f"a{user}:ab" for user in range(30)), *(f"b{u}:ac" for u in range(30)))
    )
    assert found["ab"] > found["yz"]


def test_the_closest_are_in_order_ties_by_column_and_not_too_many() -> None:
    rng = np.random.default_rng(0)
    dense = np.round(rng.random((50, 50)), 1) * (rng.random((50, 50)) < 0.8)
    np.fill_diagonal(dense, 0)
    lists = closest(sparse.csr_matrix(dense))
    for row in range(50):
        expected = [c for c in np.argsort(-dense[row], kind="stable") if dense[row, c] > 0]
        part = slice(lists.bounds[row], lists.bounds[row + 1])
        assert (lists.rows[part] - 1).tolist() == expected[:MAX_RELATED]
        assert lists.scores[part] == pytest.approx(dense[row, expected[:MAX_RELATED]])


def test_bought_together_comes_from_purchases_where_there_are_some() -> None:
    log = log_of("u:abcd", "v:abcd", "w:cde", types="pvpv" + "pvpv" + "vvv")
    ids = ["a", "b", "c", "d", "e"]
    related = related_lists(log, Vocabulary(ids), bst(5))

    def listed(item: str) -> tuple[list[str], str]:
        row = ids.index(item) + 1
        found = related.bought_together.of(row, ids, 9)
        return [other.item_id for other in found], related.basis(row)

    assert listed("a") == (["c"], "purchases")
    assert listed("c") == (["a"], "purchases")
    assert listed("b") == (["a", "c", "d"], "clicks")
    assert listed("e") == (["c", "d"], "clicks")
    assert len(related.similar.of(1, ids, 9)) == 4


def test_without_types_all_clicks_say_what_is_bought_together() -> None:
    related = related_lists(log_of("u:abc"), Vocabulary(["a", "b", "c"]), bst(3))
    assert not related.by_purchases.any()
    assert len(related.bought_together.rows) == 6


def test_what_is_made_is_what_can_be_read() -> None:
    """Of a catalogue with an item that nobody clicked, and a click on one that it lacks."""
    rng = np.random.default_rng(3)
    sessions = [f"{u}:" + "".join(rng.choice(list("abcdefghijk"), 6)) for u in range(20)]
    ids = [*"abcdefghij", "unclicked"]
    related = related_lists(log_of(*sessions), Vocabulary(ids), bst(11))
    assert to_bytes(from_bytes(to_bytes(related), 11)) == to_bytes(related)
    assert related.bought_together.of(11, ids, 30) == []
    assert len(related.similar.of(11, ids, 30)) == 10, "by its vector"


def test_similar_are_those_with_common_users_then_those_with_near_vectors() -> None:
    model = bst(6)
    log = log_of(*(f"u{user}:ab" for user in range(30)), "x:cd")
    related = related_lists(log, Vocabulary(list("abcdef")), model)
    with torch.inference_mode():
        vectors = model.item_vectors()
    cosine = (vectors @ vectors[0]).clamp(min=0).tolist()
    by_vector = sorted([2, 3, 4, 5], key=lambda column: -cosine[column])
    found = related.similar.of(1, list("abcdef"), 9)
    assert [item.item_id for item in found] == ["b", *("abcdef"[column] for column in by_vector)]
    expected = (30 / 50 + VECTOR_WEIGHT * cosine[1]) / (1 + VECTOR_WEIGHT)
    assert found[0].score == pytest.approx(expected, abs=1e-5)


def test_the_nearest_are_exact_for_a_small_catalogue() -> None:
    vectors = functional.normalize(torch.randn(700, 8, generator=torch.manual_seed(1)), dim=1)
    cosine = (vectors @ vectors.T).fill_diagonal_(-torch.inf)
    expected = torch.topk(cosine, 30, dim=1).indices.numpy()
    assert np.array_equal(nearest(vectors, 30), expected)
    assert nearest(vectors[:3], 30).shape == (3, 2)


def test_the_nearest_of_a_large_catalogue_are_nearly_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 clusters, of which 16 are looked into; the vectors lie about 100 centres, as items do."""
    monkeypatch.setattr(related_module, "_CLUSTER", 50)
    random = torch.manual_seed(2)
    centres = torch.randn(100, 16, generator=random)
    vectors = centres.repeat(20, 1) + 0.5 * torch.randn(2000, 16, generator=random)
    vectors = functional.normalize(vectors, dim=1)
    cosine = (vectors @ vectors.T).fill_diagonal_(-torch.inf)
    exact = torch.topk(cosine, 10, dim=1).indices.numpy()
    found = nearest(vectors, 10)
    assert not (found == np.arange(2000)[:, None]).any()
    assert np.mean([len({*a} & {*b}) for a, b in zip(found, exact, strict=True)]) > 9.5


def test_there_are_enough_candidates_however_vectors_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all in one cluster: the others hold one each, and there are fewer than are wanted."""
    monkeypatch.setattr(related_module, "_CLUSTER", 4)
    monkeypatch.setattr(related_module, "_PROBES", 1)
    vectors = torch.eye(40)
    vectors[10:] = vectors[10]
    found = nearest(vectors, 30)
    assert all(len({*row}) == 30 and place not in row for place, row in enumerate(found.tolist()))
