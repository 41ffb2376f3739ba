from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nextclick.shared.items import UNKNOWN, Attributes
from nextclick.shared.profiles import Boosts, CategoryCounts, Profile, profile_id, unknown_profile


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"categorys": ["a"]}, "Extra inputs"),
        ({"categories": []}, "at least 1"),
        ({"categories": ["a"] * 101}, "at most 100"),
        ({"categories": "a"}, "valid list"),
        ({"categories": ["a", "b"], "excluded_categories": ["b"]}, "'b' is in categories and in"),
        ({"tags": ["t"], "excluded_tags": ["t"]}, "'t' is in tags and in excluded_tags"),
        ({"min_price": 3, "max_price": 2.5}, "min_price 3 is above max_price 2.5"),
        ({"min_price": -1}, "greater than or equal to 0"),
        ({"max_price": "3"}, "valid number"),
        ({"max_price": float("inf")}, "finite"),
        ({"max_per_category": 0}, "greater than or equal to 1"),
        ({"max_per_category": True}, "valid integer"),
        ({"boosts": {"items": {"1": 0}}}, "greater than 0"),
        ({"boosts": {"tags": {"t": -2}}}, "greater than 0"),
        ({"boosts": {"categories": {"a": float("nan")}}}, "finite"),
        ({"boosts": {"brands": {"a": 2}}}, "Extra inputs"),
        ({"pins": [{"position": 0, "item_id": "1"}]}, "greater than or equal to 1"),
        ({"pins": [{"position": 101, "item_id": "1"}]}, "less than or equal to 100"),
        (
            {"pins": [{"position": 2, "item_id": "1"}, {"position": 2, "item_id": "3"}]},
            "position 2 has several pins",
        ),
        (
            {"pins": [{"position": 1, "item_id": 7}, {"position": 2, "item_id": "7"}]},
            "item '7' is pinned to several positions",
        ),
    ],
)
def test_what_cannot_be_is_refused(content: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Profile.model_validate(content)


def test_pins_stand_within_the_list() -> None:
    profile = Profile.model_validate({"pins": [{"position": 4, "item_id": "1"}]})
    profile.check_length(4)
    with pytest.raises(ValueError, match="position 4 of a list of 3"):
        profile.check_length(3)


def test_a_digest_stands_for_the_content() -> None:
    """It is in messages and in what was kept of old profiles, so it must never change."""
    profile = Profile.model_validate({"max_price": 20, "categories": ["dogs", "chats é"]})
    assert profile_id("cart", profile) == "cart@69fea1de5ef8"
    same = json.loads('{"categories": ["dogs", "chats \\u00e9"], "max_price": 20.0, "pins": []}')
    assert Profile.model_validate(same).digest == profile.digest
    assert Profile.model_validate(same | {"max_price": 21}).digest != profile.digest


def test_an_unknown_profile_is_told_which_there_are() -> None:
    assert unknown_profile("x", {"home", "cart"}).endswith("NEXTCLICK_PROFILES has: cart, home")
    assert unknown_profile("x", ()).endswith("there are none")


def test_what_the_page_shows_is_what_is_taken() -> None:
    page = (Path(__file__).parents[3] / "docs" / "constraints.md").read_text()
    profiles, request = (json.loads(b) for b in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    assert {*profiles} == {"home", "cart"}
    for content in (*profiles.values(), request["constraints"]):
        assert Profile.model_validate(content).content != "{}"
    for field in Profile.model_fields:
        assert f"`{field}`" in page


ITEM = Attributes(("red", "dogs"), ("new",), 10.0)


@pytest.mark.parametrize(
    ("content", "attributes", "why"),
    [
        ({"categories": ["dogs", "cats"]}, ITEM, None),
        ({"categories": ["cats"], "excluded_tags": ["new"]}, ITEM, "categories"),
        ({"categories": ["red"], "excluded_categories": ["dogs"]}, ITEM, "excluded_categories"),
        ({"tags": ["old"], "max_price": 1}, ITEM, "tags"),
        ({"excluded_tags": ["new"], "max_price": 1}, ITEM, "excluded_tags"),
        ({"min_price": 10, "max_price": 10}, ITEM, None),
        ({"min_price": 10.5}, ITEM, "price"),
        ({"max_price": 9.5}, ITEM, "price"),
        ({"min_price": 0}, UNKNOWN, "price"),
        ({"categories": ["red"]}, UNKNOWN, "categories"),
        ({"excluded_categories": ["red"], "excluded_tags": ["new"]}, UNKNOWN, None),
    ],
    ids=str,
)
def test_the_first_constraint_that_keeps_an_item_out_is_named(
    content: dict[str, Any], attributes: Attributes, why: str | None
) -> None:
    assert Profile.model_validate(content).excluded_by(attributes) == why


def test_boosts_of_one_item_multiply() -> None:
    boosts = Boosts(categories={"red": 2, "dogs": 3}, tags={"new": 5, "old": 7}, items={"1": 0.5})
    assert boosts.of("1", ITEM) == 15
    assert boosts.of("2", ITEM) == 30
    assert boosts.of("2", UNKNOWN) == 1


def test_the_smallest_limit_per_category_holds() -> None:
    counts = CategoryCounts(map(Profile.model_validate, ({"max_per_category": n} for n in (3, 1))))
    assert counts.limit == 1
    taken = [counts.take(names) for names in (("a", "b"), ("b", "c"), (), ("c",), ("a",))]
    assert taken == [True, False, True, True, False]
    assert sorted(counts.full) == ["a", "b", "c"]
    without = CategoryCounts([Profile()])
    assert all(without.take(("a",)) for _ in range(5))
    assert without.full == []
