from __future__ import annotations

import hashlib
import json
import pickle
import resource
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model import Calibration, Scorer, Vocabulary
from nextclick.shared.model.checkpoint import MANIFEST, VOCABULARY, WEIGHTS, from_files, to_files
from tests.unit.builders import CPU, checkpoint

CALIBRATION = Calibration(a=0.8, b=0.0, c=-0.3)


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
    written = replace(checkpoint(), calibration=CALIBRATION)
    read = from_files(to_files(written, "v1", "2026-01-31T12:00:00+00:00"), "v1")
    assert read.vocabulary.item_ids == written.vocabulary.item_ids
    assert np.array_equal(read.popularity, written.popularity)
    assert (read.preset, read.parent) == (written.preset, written.parent)
    assert (read.metrics, read.training) == (written.metrics, written.training)
    assert read.calibration == written.calibration == CALIBRATION
    for name, value in written.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], value)
    assert not read.model.training


def test_a_version_from_before_calibration_gives_the_lists_that_it_gave() -> None:
    document = json.loads(files()[MANIFEST])
    del document["calibration"]
    old = {**files(), MANIFEST: json.dumps({**document, "format": 4}).encode()}
    lists = Scorer(from_files(old, "v1"), CPU, 10).recommend([["1", "2"], ["9"]])
    assert lists == Scorer(checkpoint(), CPU, 10).recommend([["1", "2"], ["9"]])


@pytest.mark.parametrize("wrong", [{"a": 0}, {"b": -1}, {"c": None}, {"d": 1}], ids=str)
def test_a_calibration_that_could_change_the_order_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="calibration"):
        from_files(resigned(files(), calibration=wrong), "v1")


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
    with pytest.raises(CheckpointError, match=r"another shape: .*item_embedding"):
        from_files(bad, "v1")


@pytest.mark.parametrize("shape", [{"items": 10**9}, {"layers": 10**9}, {"feedforward": 10**9}])
def test_a_manifest_that_asks_for_more_memory_than_there_is_is_refused(
    shape: dict[str, int],
) -> None:
    asked = {**json.loads(files()[MANIFEST])["model"], **shape}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        from_files(resigned(files(), model=asked), "v1")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


@pytest.mark.parametrize(
    "ids", [["1"], [*map(str, range(29)), "1"], {"1": 1}, None], ids=["few", "twice", "map", "null"]
)
def test_a_vocabulary_that_does_not_fit_is_refused(ids: object) -> None:
    bad = resigned({**files(), VOCABULARY: json.dumps(ids).encode()})
    with pytest.raises(CheckpointError, match=VOCABULARY):
        from_files(bad, "v1")


def test_an_item_id_that_no_answer_could_hold_is_refused() -> None:
    good = files()
    ids = ["\ud800", *json.loads(good[VOCABULARY])[1:]]
    bad = resigned({**good, VOCABULARY: json.dumps(ids).encode()})
    with pytest.raises(CheckpointError, match=VOCABULARY):
        from_files(bad, "v1")


def test_weights_that_are_not_finite_are_refused() -> None:
    broken = checkpoint()
    with torch.no_grad():
        broken.model.get_parameter("network.item_embedding.weight")[3, 3] = float("inf")
    with pytest.raises(CheckpointError, match="not finite"):
        from_files(to_files(broken, "v1", "now"), "v1")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format": 4}'], ids=repr)
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


@pytest.mark.parametrize("name", [WEIGHTS, VOCABULARY, MANIFEST])
def test_a_missing_file_is_named(name: str) -> None:
    rest = {other: content for other, content in files().items() if other != name}
    with pytest.raises(CheckpointError, match=name):
        from_files(rest, "v1")


def test_a_file_that_the_manifest_does_not_list_is_refused() -> None:
    bad = resigned(files(), files={})
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} does not match"):
        from_files(bad, "v1")


@pytest.mark.parametrize(
    "ids",
    [
        [*map(str, range(30)), "1"],
        list(range(30)),
        [["1"]] * 30,
        [None, *map(str, range(29))],
    ],
    ids=["one too many, twice", "numbers", "lists", "a null"],
)
def test_a_vocabulary_of_anything_but_item_ids_is_refused(ids: object) -> None:
    bad = resigned({**files(), VOCABULARY: json.dumps(ids).encode()})
    with pytest.raises(CheckpointError, match=VOCABULARY):
        from_files(bad, "v1")


@pytest.mark.parametrize(
    "shape", [{"heads": 3}, {"layers": 3}, {"feedforward": 25}, {"items": 29}, {"embed_dim": 18}]
)
def test_a_model_shape_that_is_not_that_of_the_weights_is_refused(shape: dict[str, int]) -> None:
    model = {**json.loads(files()[MANIFEST])["model"], **shape}
    with pytest.raises(CheckpointError, match="version v1"):
        from_files(resigned(files(), model=model), "v1")


@pytest.mark.parametrize(
    "popularity",
    [
        torch.tensor(3),
        torch.ones(29, dtype=torch.int64),
        torch.ones(30, 2, dtype=torch.int64),
        torch.full((30,), float("nan")),
        torch.ones(30, dtype=torch.bfloat16),
        torch.full((30,), -1),
    ],
    ids=["scalar", "short", "table", "nan", "bfloat16", "negative"],
)
def test_popularity_is_one_count_for_each_item(popularity: torch.Tensor) -> None:
    tensors = safetensors.torch.load(files()[WEIGHTS])
    tensors["popularity"] = popularity
    with pytest.raises(CheckpointError, match="version v1"):
        from_files(resigned({**files(), WEIGHTS: safetensors.torch.save(tensors)}), "v1")


@pytest.mark.parametrize("row", [-1, 31])
def test_neighbours_outside_the_catalogue_are_refused(row: int) -> None:
    """Else the first click on that item, long after the swap, finds them."""
    tensors = safetensors.torch.load(files()[WEIGHTS])
    tensors["neighbours.rows"][17, 0] = row
    with pytest.raises(CheckpointError, match="neighbours are not in the catalogue"):
        from_files(resigned({**files(), WEIGHTS: safetensors.torch.save(tensors)}), "v1")


@pytest.mark.parametrize("lost", ["popularity", "network.norm.bias"])
def test_a_tensor_that_is_missing_is_named(lost: str) -> None:
    tensors = safetensors.torch.load(files()[WEIGHTS])
    del tensors[lost]
    with pytest.raises(CheckpointError, match=lost):
        from_files(resigned({**files(), WEIGHTS: safetensors.torch.save(tensors)}), "v1")


def test_a_manifest_with_fields_of_a_later_format_is_refused() -> None:
    with pytest.raises(CheckpointError, match="later"):
        from_files(resigned(files(), later=1), "v1")


def test_ids_are_kept_as_they_are_in_any_script() -> None:
    ids = ["ü", "猫", "a b", '"', "\\", "\u2028", *map(str, range(24))]
    written = to_files(replace(checkpoint(), vocabulary=Vocabulary(ids)), "v1", "now")
    assert from_files(written, "v1").vocabulary.item_ids == ids
    assert "猫".encode() in written[VOCABULARY]


def test_a_metric_that_could_not_be_computed_does_not_spoil_the_version() -> None:
    """An AUC without cases, a validation loss without validation: written is readable."""
    written = replace(checkpoint(), metrics={"auc": float("nan"), "hr@10": 0.5})
    assert from_files(to_files(written, "v1", "now"), "v1").metrics["hr@10"] == 0.5


def test_writing_does_not_move_or_share_the_model() -> None:
    ours = checkpoint()
    read = from_files(to_files(ours, "v1", "now"), "v1")
    with torch.no_grad():
        read.model.get_parameter("network.norm.bias").fill_(9.0)
    assert (ours.model.get_parameter("network.norm.bias") != 9.0).all()
