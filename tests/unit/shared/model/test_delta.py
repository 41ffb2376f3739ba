"""A delta of a model: its file, its bounds, and what it does to its base."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model import Checkpoint, Scorer
from nextclick.shared.model.delta import MAX_NEW_ITEMS, Delta, applied, from_bytes, to_bytes
from tests.unit.builders import CPU, bst, checkpoint


def a_delta(**changes: object) -> Delta:
    """Of a base of 30 items: "new" is clicked near item "1", and "1" near "new" only."""
    rows, shares = torch.zeros(2, 5, dtype=torch.int32), torch.zeros(2, 5)
    rows[0, 0], shares[0, 0] = 31, 1.0
    rows[1, 0], shares[1, 0] = 1, 0.8
    delta = Delta(
        "v1", "ab", 7, ["new"], np.array([1, 31]), rows, shares, 0.9, np.array([40, 3]), 2
    )
    return replace(delta, **changes)  # type: ignore[arg-type]


def lists(of: Checkpoint, histories: list[list[str]]) -> list[list[str]]:
    rankings = Scorer(of, CPU, 5).recommend(histories)
    return [[item.item_id for item in ranking.items] for ranking in rankings]


def test_a_delta_changes_lists_of_its_base_and_the_base_not_at_all() -> None:
    base = checkpoint()
    before = lists(base, [["1"], ["2", "3"], []])
    changed = applied(a_delta(), base)

    assert lists(changed, [["1"]])[0][0] == "new"
    assert lists(changed, [["new"]]) != lists(changed, [[]])  # an item like any other
    assert changed.popularity[0] == 40
    assert changed.popularity[30] == 3
    assert lists(base, [["1"], ["2", "3"], []]) == before
    assert base.model.config.items == 30
    # What does not change is not copied.
    norm = "network.norm.weight"
    assert changed.model.state_dict()[norm].data_ptr() == base.model.state_dict()[norm].data_ptr()


def test_a_new_item_looks_like_its_known_neighbours() -> None:
    base = checkpoint()
    vectors = applied(a_delta(), base).model.item_vectors()
    assert torch.allclose(vectors[30], vectors[0], atol=1e-5)


def test_a_file_gives_the_same_delta_and_the_same_list() -> None:
    base, delta = checkpoint(), a_delta()
    read = from_bytes(to_bytes(delta))
    assert (read.base, read.base_sha256, read.number) == ("v1", "ab", 7)
    assert (read.new_items, read.forget_count) == (["new"], 2)
    again = Scorer(applied(read, base), CPU, 5).recommend([["1", "4"]])
    assert again == Scorer(applied(delta, base), CPU, 5).recommend([["1", "4"]])


@pytest.mark.parametrize("at", [0, 40, 400, -1])
def test_a_damaged_file_is_refused(at: int) -> None:
    content = bytearray(to_bytes(a_delta()))
    content[at] ^= 1
    with pytest.raises(CheckpointError, match="SHA-256"):
        from_bytes(bytes(content))


@pytest.mark.parametrize("content", [b"", b"short", hashlib.sha256(b"{}").digest() + b"{}"])
def test_what_is_no_delta_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError):
        from_bytes(content)


@pytest.mark.parametrize(
    "changes",
    [
        {"shares": torch.full((2, 5), torch.nan)},
        {"shares": torch.full((2, 5), -0.1)},
        {"shares": torch.full((2, 5), 0.3)},
        {"weight": 1.0},
        {"weight": float("nan")},
        {"users": np.array([-1, 3])},
        {"touched": np.array([31, 1])},
        {"touched": np.array([1, 2, 31])},
        {"new_items": [str(i) for i in range(100, 101 + MAX_NEW_ITEMS)]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_delta_out_of_bounds_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointError):
        from_bytes(to_bytes(a_delta(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"new_items": ["1"]},  # the base has it
        {"new_items": []},  # row 31 is nobody's
        {"new_items": ["new", "newer"]},  # row 32 is missing
        {"touched": np.array([0, 31])},
        {"rows": torch.full((2, 5), 32, dtype=torch.int32)},
        {"rows": torch.zeros(2, 6, dtype=torch.int32), "shares": torch.zeros(2, 6)},
    ],
    ids=str,
)
def test_a_delta_that_does_not_fit_its_base_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="does not fit its base"):
        applied(a_delta(**changes), checkpoint())


def test_a_larger_base_is_not_that_of_the_delta() -> None:
    other = replace(checkpoint(), model=bst(31).eval())
    with pytest.raises(CheckpointError, match="does not fit"):
        applied(replace(a_delta(), touched=np.array([1, 33])), other)
