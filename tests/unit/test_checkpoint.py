from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from shared.checkpoint import (
    MANIFEST,
    VOCABULARY,
    WEIGHTS,
    Vocabulary,
    from_files,
    to_files,
)
from shared.errors import CheckpointError
from tests.unit.builders import checkpoint


def files() -> dict[str, bytes]:
    return to_files(checkpoint(), "v1", "2026-01-31T12:00:00+00:00")


def resigned(changed: dict[str, bytes], **manifest: object) -> dict[str, bytes]:
    """The files with the manifest's checksums made right again."""
    document = json.loads(changed[MANIFEST])
    document["files"] = {
        name: hashlib.sha256(changed[name]).hexdigest() for name in (WEIGHTS, VOCABULARY)
    }
    document.update(manifest)
    return {**changed, MANIFEST: json.dumps(document).encode()}


def test_what_is_read_is_what_was_written() -> None:
    written = checkpoint()
    read = from_files(files(), "v1")
    assert read.vocabulary.item_ids == written.vocabulary.item_ids
    assert np.array_equal(read.popularity, written.popularity)
    assert (read.preset, read.parent) == (written.preset, written.parent)
    assert (read.metrics, read.training) == (written.metrics, written.training)
    for name, value in written.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], value)
    assert not read.model.training


@pytest.mark.parametrize("name", [WEIGHTS, VOCABULARY])
def test_an_altered_or_truncated_file_is_refused(name: str) -> None:
    good = files()
    flipped = bytes([good[name][-2] ^ 1])
    for bad in (good[name][:-2] + flipped + good[name][-1:], good[name][:-10], b""):
        with pytest.raises(CheckpointError, match=f"{name} does not match"):
            from_files({**good, name: bad}, "v1")


def test_a_pickle_in_disguise_is_never_loaded() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.fail, ("the pickle ran",))

    bad = resigned({**files(), WEIGHTS: pickle.dumps(Bomb())})
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        from_files(bad, "v1")


def test_weights_of_another_shape_are_refused() -> None:
    other = to_files(checkpoint(items=31), "v1", "now")
    bad = resigned({**files(), WEIGHTS: other[WEIGHTS]})
    with pytest.raises(CheckpointError, match="size mismatch"):
        from_files(bad, "v1")


@pytest.mark.parametrize(
    "ids", [["1"], [*map(str, range(29)), "1"], {"1": 1}, None], ids=["few", "twice", "map", "null"]
)
def test_a_vocabulary_that_does_not_fit_is_refused(ids: object) -> None:
    bad = resigned({**files(), VOCABULARY: json.dumps(ids).encode()})
    with pytest.raises(CheckpointError, match=VOCABULARY):
        from_files(bad, "v1")


def test_weights_that_are_not_finite_are_refused() -> None:
    broken = checkpoint()
    with torch.no_grad():
        broken.model.item_embedding.weight[3, 3] = float("inf")
    with pytest.raises(CheckpointError, match="not finite"):
        from_files(to_files(broken, "v1", "now"), "v1")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format": 2}'])
def test_a_broken_manifest_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=MANIFEST):
        from_files({**files(), MANIFEST: content}, "v1")


def test_the_manifest_of_another_version_is_refused() -> None:
    with pytest.raises(CheckpointError, match="says v1"):
        from_files(files(), "v2")


def test_a_vocabulary_only_grows_at_its_end() -> None:
    old = Vocabulary(["b", "a"])
    new = old.extended(["c", "a", "d", "c"])
    assert new.item_ids == ["b", "a", "c", "d"]
    assert new.rows(["d", "b", "?"]).tolist() == [4, 1, 0]


def test_a_checkpoint_says_what_it_came_from() -> None:
    child = to_files(replace(checkpoint(), parent="v0"), "v1", "now")
    assert from_files(child, "v1").parent == "v0"
