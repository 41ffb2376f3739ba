"""Lists under profiles, against a plain program that reads the whole ranking from the top."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextclick.shared.items import NOTHING_KNOWN, UNKNOWN, Attributes, ItemAttributes
from nextclick.shared.model import Ranking, Scorer
from nextclick.shared.model.item_index import ItemIndex
from nextclick.shared.profiles import Boosts, Pin, Profile
from nextclick.shared.windows import windows
from tests.unit.builders import CPU, checkpoint
from tests.unit.profile_oracle import Asked

ITEMS = 30
SCORER = Scorer(checkpoint(ITEMS), CPU, top_k=10)
WHOLE = Scorer(checkpoint(ITEMS), CPU, top_k=ITEMS)

ids = st.integers(1, ITEMS + 2).map(str)  # two of them are unknown to the model
categories, tags = st.sampled_from("abc"), st.sampled_from("xy")
prices = st.one_of(st.none(), st.integers(0, 4).map(float))
attributes_drawn = st.dictionaries(
    ids,
    st.builds(
        Attributes,
        st.lists(categories, unique=True, max_size=2).map(tuple),
        st.lists(tags, unique=True, max_size=2).map(tuple),
        prices,
    ),
)
factors = st.sampled_from([0.01, 0.5, 2.0, 30.0])


BASE = NOTHING_KNOWN.changed(
    {
        str(i): Attributes(("abc"[i % 3],), ("xy"[i % 2],), i % 5.0)
        for i in range(1, ITEMS + 1)
        if i % 7
    }
)


@st.composite
def profiles_drawn(draw: st.DrawFn) -> Profile:
    """Few constraints in each, so that something is left."""
    low = draw(st.integers(0, 2).map(float))
    high = draw(st.integers(int(low), 4).map(float))
    places = draw(st.lists(st.integers(1, 12), unique=True, max_size=3))
    pinned = draw(st.lists(ids, min_size=len(places), max_size=len(places), unique=True))
    parts: dict[str, object] = {
        "categories": draw(st.lists(categories, min_size=1, unique=True)),
        "excluded_categories": draw(st.lists(st.sampled_from("cd"), min_size=1, max_size=1)),
        "tags": draw(st.lists(tags, min_size=1, unique=True)),
        "excluded_tags": draw(st.lists(tags, min_size=1, unique=True)),
        "min_price": low,
        "max_price": high,
        "max_per_category": draw(st.integers(1, 3)),
        "boosts": Boosts(
            categories=draw(st.dictionaries(categories, factors, max_size=2)),
            tags=draw(st.dictionaries(tags, factors, max_size=1)),
            items=draw(st.dictionaries(ids, factors, max_size=2)),
        ),
        "pins": [Pin(position=p, item_id=i) for p, i in zip(places, pinned, strict=True)],
    }
    kept = draw(st.sets(st.sampled_from(sorted(parts)), max_size=3))
    for kind in ("categories", "tags"):  # a profile may not ask for what it excludes
        if {kind, f"excluded_{kind}"} <= kept:
            kept.remove(f"excluded_{kind}")
    return Profile.model_validate({name: parts[name] for name in kept})


def log_p_of(history: list[str]) -> dict[str, float]:
    rows = SCORER.vocabulary.rows(history)
    window = windows(rows, np.array([0]), np.array([len(rows)])) if history else None
    if window is None or not window.any():
        return dict(zip(SCORER.vocabulary.item_ids, SCORER.log_popularity, strict=True))
    (row,) = SCORER.log_probabilities(window)
    return dict(zip(SCORER.vocabulary.item_ids, row.tolist(), strict=True))


@settings(max_examples=60)
@given(
    st.lists(st.lists(ids, max_size=12), min_size=1, max_size=4),
    st.lists(st.tuples(attributes_drawn, st.frozensets(ids, max_size=8)), min_size=1, max_size=3),
    st.lists(st.lists(profiles_drawn(), max_size=2), min_size=1, max_size=3),
    st.integers(1, 14),
    st.booleans(),
)
def test_a_list_is_the_ranking_read_from_the_top(
    histories: list[list[str]],
    changes: list[tuple[dict[str, Attributes], frozenset[str]]],
    kinds: list[list[Profile]],
    k: int,
    without_history: bool,
) -> None:
    """Whatever was known before, for several kinds of lists from one pass, and a plain one."""
    attributes = BASE
    for changed, withheld in changes:
        attributes = attributes.changed(changed)
        made = [SCORER.prepare(profiles, attributes)(k, without_history) for profiles in kinds]
        plain, *lists = SCORER.recommend_each(
            histories, [None, *([constraint] * len(histories) for constraint in made)], withheld
        )
        for i, history in enumerate(histories):
            (whole,) = WHOLE.recommend([history])
            scores = {item.item_id: item.score for item in whole.items}
            for profiles, rankings in zip(kinds, lists, strict=True):
                seen = history[-10:] if without_history and whole.fallback is None else []
                asked = Asked(profiles, attributes, withheld, k, frozenset(seen))
                listed = [item.item_id for item in rankings[i].items]
                assert all(asked.allowed(item_id) for item_id in listed)
                assert listed == asked.expected(log_p_of(history))
                for item in rankings[i].items:  # boosts and pins change no score
                    assert item.score == pytest.approx(scores[item.item_id], rel=1e-4)
                assert rankings[i].fallback == whole.fallback
                adds_up(rankings[i], k)
        assert plain == SCORER.recommend(histories, withheld=withheld)


def adds_up(ranking: Ranking, k: int) -> None:
    if len(ranking.items) == k:
        assert ranking.shortened_by is None
    else:
        assert ranking.shortened_by is not None
        assert all(number > 0 for number in ranking.shortened_by.values())
        assert sum(ranking.shortened_by.values()) + len(ranking.items) == ITEMS


@settings(max_examples=30)
@given(st.lists(attributes_drawn, min_size=1, max_size=6))
def test_an_index_that_followed_the_changes_is_as_one_made_anew(
    changes: list[dict[str, Attributes]],
) -> None:
    followed = ItemIndex.empty(SCORER.vocabulary, CPU)
    known: dict[str, Attributes] = {}
    attributes = NOTHING_KNOWN
    for changed in changes:
        attributes = attributes.changed(changed)
        known |= changed
        followed = followed.changed_to(attributes)
    anew = ItemIndex.empty(SCORER.vocabulary, CPU).changed_to(NOTHING_KNOWN.changed(known))
    assert len(attributes) == sum(of != UNKNOWN for of in known.values())
    assert all(attributes.get(i) == known.get(i, UNKNOWN) for i in map(str, range(ITEMS + 3)))
    np.testing.assert_array_equal(followed.prices, anew.prices)
    for mine, theirs in ((followed.categories, anew.categories), (followed.tags, anew.tags)):
        assert mine.keys() == theirs.keys()
        assert all({*mine[name].tolist()} == {*theirs[name].tolist()} for name in mine)


def test_profiles_hold_where_a_shortlist_is_ranked_and_change_no_plain_list() -> None:
    scorer = Scorer(checkpoint(2000), CPU, top_k=5, shortlist_from=1)
    exact = Scorer(checkpoint(2000), CPU, top_k=2000)
    assert scorer.shortlist is not None
    histories = [[str(i), str(2 * i)] for i in range(1, 100)] + [[]]
    even = NOTHING_KNOWN.changed({str(i): Attributes(("even",)) for i in range(2, 2001, 2)})
    profile = Profile(categories=["even"], pins=[Pin(position=2, item_id="7")])
    constraints = [scorer.prepare([profile], even)(5, False)] * len(histories)
    plain, ruled = scorer.recommend_each(histories, [None, constraints])
    assert plain == scorer.recommend(histories)
    for ranking, whole in zip(ruled, exact.recommend(histories), strict=True):
        best = [item.item_id for item in whole.items if int(item.item_id) % 2 == 0]
        assert [item.item_id for item in ranking.items] == best[:5]


def test_a_limit_per_category_reads_on_until_the_list_is_full() -> None:
    """All but ranking.items are in one category, of which one may be listed."""
    one = NOTHING_KNOWN.changed({str(i): Attributes(("one",)) for i in range(4, ITEMS + 1)})
    for history in (["5"], []):
        constraints = SCORER.prepare([Profile(max_per_category=1)], one)(5, False)
        (ranking,) = SCORER.recommend([history], [constraints])
        listed = {item.item_id for item in ranking.items}
        assert listed > {"1", "2", "3"}
        assert len(listed) == 4
        assert ranking.shortened_by == {"max_per_category": ITEMS - 4}


def test_a_broken_model_is_seen_under_a_profile() -> None:
    scorer = Scorer(checkpoint(ITEMS), CPU, top_k=10)
    scorer._catalogue = scorer._catalogue * math.nan
    profile = Profile(max_per_category=1, boosts=Boosts(items={"1": 2.0}))
    constraints = scorer.prepare([profile], NOTHING_KNOWN)(3, False)
    (ranking,) = scorer.recommend([["1"]], [constraints])
    assert any(math.isnan(item.score) for item in ranking.items)


def test_what_was_prepared_is_kept_until_attributes_change() -> None:
    scorer = Scorer(checkpoint(ITEMS), CPU, top_k=10)
    profile = Profile(min_price=1.0)
    known = NOTHING_KNOWN.changed({"1": Attributes(price=2.0)})

    def prepared(attributes: ItemAttributes) -> object:
        return scorer.prepare([profile.model_copy()], attributes)(3, False).profiles[0]

    first = prepared(known)
    assert prepared(known) is first
    assert prepared(known.changed({"1": Attributes(price=2.0)})) is first
    assert prepared(known.changed({"2": Attributes(price=2.0)})) is not first


def test_of_two_profiles_all_holds_and_the_first_ones_pins_come_first() -> None:
    first = Profile(
        max_per_category=1,
        pins=[Pin(position=1, item_id="9"), Pin(position=3, item_id="4")],
        boosts=Boosts(items={"11": 1e6, "10": 1e4, "13": 1e2}),
    )
    second = Profile(
        max_per_category=3,
        min_price=1.0,
        pins=[Pin(position=1, item_id="8"), Pin(position=2, item_id="4")],
        boosts=Boosts(items={"11": 1e6, "10": 1e6, "13": 1e6}),
    )
    attributes = NOTHING_KNOWN.changed(
        {str(i): Attributes((f"of {i // 2}",), price=1.0) for i in range(1, ITEMS + 1)}
    )
    for history in (["5"], []):
        constraints = SCORER.prepare([first, second], attributes)(4, False)
        (ranking,) = SCORER.recommend([history], [constraints])
        assert [item.item_id for item in ranking.items] == ["9", "11", "4", "13"]
        (ranking,) = SCORER.recommend([history], [SCORER.prepare([second], attributes)(4, False)])
        assert [item.item_id for item in ranking.items] != []
