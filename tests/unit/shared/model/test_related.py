"""Lists of related items: looked up, written, read, and refused if they are none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model.checkpoint import MANIFEST, RELATED, from_files, to_files
from nextclick.shared.model.related import RelatedLists, from_bytes, to_bytes
from nextclick.shared.registry import Registry
from tests.unit.builders import checkpoint, related_lists

IDS = [str(i) for i in range(1, 31)]
Tensors = dict[str, np.ndarray]


def similar(lists: RelatedLists, row: int, k: int, *withheld: str) -> list[str]:
    return [item.item_id for item in lists.similar.of(row, IDS, k, frozenset(withheld))]


def test_a_list_is_as_long_as_it_is_wanted_and_as_there_are_items() -> None:
    lists = related_lists()
    assert similar(lists, 1, 3) == ["2", "3", "4"]
    assert similar(lists, 30, 2) == ["1", "2"]
    assert len(similar(lists, 7, 100)) == 29
    assert lists.bought_together.of(1, IDS, 100)[0].score == 0.5
    assert len(lists.bought_together.of(1, IDS, 100)) == 5
    assert (lists.basis(1), lists.basis(2)) == ("purchases", "clicks")


def test_what_is_withheld_makes_room_for_the_next() -> None:
    assert similar(related_lists(), 1, 3, "2", "4", "unheard-of") == ["3", "5", "6"]


def test_an_item_that_a_delta_added_has_no_list() -> None:
    assert related_lists().similar.of(31, [*IDS, "new"], 5) == []
    assert related_lists().basis(31) == "clicks"


def test_the_holders_of_an_item_are_those_in_whose_lists_it_is() -> None:
    lists = related_lists()
    assert lists.bought_together.holders(np.array([1])).tolist() == [26, 27, 28, 29, 30]
    assert lists.holders(np.array([1])).tolist() == list(range(2, 31))
    assert lists.holders(np.array([0])).tolist() == []


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    registry, written = Registry(str(tmp_path)), related_lists()
    version = registry.publish(dataclasses.replace(checkpoint(), related=written))
    read = registry.related_lists(version)
    assert read is not None
    assert to_bytes(read) == to_bytes(written)
    assert registry.load(version).related is None, "workers do not read it"
    assert registry.related_lists(registry.publish(checkpoint())) is None


def test_a_version_with_lists_is_one_for_those_who_do_not_know_of_them() -> None:
    """Format 5 has a list of files; who reads three of them need not know the others."""
    files = to_files(dataclasses.replace(checkpoint(), related=related_lists()), "v1", "now")
    manifest = json.loads(files[MANIFEST])
    assert manifest["format"] == 5
    assert manifest["files"][RELATED] == hashlib.sha256(files.pop(RELATED)).hexdigest()
    assert from_files(files, "v1").vocabulary.item_ids == IDS


def test_an_altered_or_missing_file_is_refused(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    version = registry.publish(dataclasses.replace(checkpoint(), related=related_lists()))
    path = tmp_path / version / RELATED
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match=f"{RELATED} does not match its SHA-256"):
        registry.related_lists(version)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{RELATED} is missing"):
        registry.related_lists(version)


def _set(name: str, place: int, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[name].__setitem__(place, value)


def _put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: change(tensors[name])})


@pytest.mark.parametrize(
    "spoil",
    [
        _set("similar.rows", 0, 1),
        _set("similar.rows", 0, 31),
        _set("bought_together.rows", 3, 0),
        _set("similar.scores", 1, 0.9),
        _set("similar.scores", 0, np.nan),
        _set("similar.bounds", 0, 1),
        _set("similar.bounds", 30, 0),
        _set("similar.bounds", 3, 10_000),
        _set("similar.bounds", 3, 116),
        _put("similar.rows", lambda rows: rows[:-1]),
        _put("similar.rows", lambda rows: rows.astype(np.int64)),
        _put("similar.scores", lambda scores: scores[:, None]),
        _put("similar.bounds", lambda bounds: bounds[:-1]),
        _put("by_purchases", lambda flags: flags[1:]),
        _put("by_purchases", lambda flags: flags.astype(np.int8)),
        lambda tensors: tensors.pop("by_purchases"),
        lambda tensors: tensors.pop("similar.rows"),
    ],
)
def test_what_is_no_lists_is_refused(spoil: Callable[[Tensors], object]) -> None:
    tensors = {k: v.copy() for k, v in safetensors.numpy.load(to_bytes(related_lists())).items()}
    spoil(tensors)
    with pytest.raises(CheckpointError, match="related items"):
        from_bytes(safetensors.numpy.save(tensors), 30)


def test_lists_of_another_catalogue_are_refused() -> None:
    for content in (to_bytes(related_lists(31)), b"", b"\xff" * 100):
        with pytest.raises(CheckpointError, match="related items"):
            from_bytes(content, 30)
