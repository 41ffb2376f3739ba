from __future__ import annotations

import pytest

from nextclick.shared.item_features import (
    MAX_FEATURES,
    ItemContent,
    bucket_of,
    features_of,
)

BOWL = ItemContent(("dogs",), ("steel", "round"), 12.5, "Food Bowl")
PINNED = [7724, 15942, 13835]


def test_buckets_are_the_same_in_every_process_and_version() -> None:
    """Pinned: another hash would make every checkpoint's embeddings those of other features."""
    assert [bucket_of("word", name, 16_384) for name in ("bowl", "food", "ποτήρι")] == PINNED
    assert bucket_of("tag", "bowl", 16_384) != bucket_of("word", "bowl", 16_384)
    assert bucket_of("word", "\ud800", 16_384) > 0, "half a surrogate pair is a name like others"


def test_each_kind_weighs_the_same_whatever_it_holds() -> None:
    features = features_of(BOWL, [10.0, 20.0], 1 << 20)
    weights = [weight for _, weight in features]
    assert sum(weights) == pytest.approx(5), "category, tag, price, word, trigram"
    assert weights[:6] == [1, 0.5, 0.5, 1, 0.5, 0.5]
    assert len({bucket for bucket, _ in features}) == len(features)
    assert all(1 <= bucket <= 1 << 20 for bucket, _ in features)


def test_a_price_is_in_the_bucket_of_the_bounds_that_it_reaches() -> None:
    def bucket(price: float) -> list[tuple[int, float]]:
        return features_of(ItemContent(price=price), [10.0, 20.0], 1 << 20)

    assert bucket(9.99) != bucket(10.0) == bucket(19.99) != bucket(20.0) == bucket(1e300)


def test_how_a_name_is_written_does_not_matter() -> None:
    other = ItemContent((" DOGS",), ("Steel", "ＲＯＵＮＤ", "steel"), 12.5, "food  BOWL!")
    assert features_of(other, [], 1 << 20) == features_of(BOWL, [], 1 << 20)


def test_inflected_and_compound_words_share_features() -> None:
    def features(title: str) -> set[int]:
        return {bucket for bucket, _ in features_of(ItemContent(title=title), [], 1 << 20)}

    assert features("Näpfe Hundenapf") & features("Hunde")
    assert not features("Hund") & features("Maus")


def test_no_message_makes_more_features_than_are_bounded() -> None:
    names = tuple(f"name {i}" for i in range(100))
    longest = ItemContent(names, names, 1.0, " ".join(f"{i}a{i}b{i}" for i in range(10, 90)))
    assert len(features_of(longest, [], 1 << 20)) == MAX_FEATURES
    assert features_of(ItemContent(), [], 1 << 20) == []


@pytest.mark.parametrize(
    ("content", "known"),
    [
        (ItemContent(), False),
        (ItemContent(title=" -!- "), False),
        (ItemContent(title="7"), True),
        (ItemContent(price=0.0), True),
        (ItemContent(tags=("steel",)), True),
        (ItemContent(categories=("dogs",)), True),
    ],
)
def test_an_item_is_known_if_it_has_a_feature(content: ItemContent, known: bool) -> None:
    assert content.is_known is known
    assert bool(features_of(content, [], 64)) is known
