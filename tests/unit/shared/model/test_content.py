from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from nextclick.shared.errors import CheckpointError
from nextclick.shared.item_features import ItemContent, features_of
from nextclick.shared.model import BST, Checkpoint
from nextclick.shared.model.checkpoint import MANIFEST, from_files, to_files
from nextclick.shared.model.content import ContentEncoder
from tests.unit.builders import checkpoint

CONTENTS = [
    ItemContent(("dogs",), ("steel",), 12.5, "Food Bowl"),
    None,
    ItemContent(),
    ItemContent(("dogs",), (), None, "Bowl"),
]


def encoder(buckets: int = 512) -> ContentEncoder:
    torch.manual_seed(0)
    made = ContentEncoder(buckets, 8)
    torch.nn.init.normal_(made.embedding)
    made.price_bounds.copy_(torch.linspace(1, 15, 15))
    return made


def test_a_content_vector_is_the_weighted_sum_of_the_embeddings_of_its_features() -> None:
    made = encoder()
    vectors = made(made.features(CONTENTS))
    for content, vector in zip(CONTENTS, vectors, strict=True):
        features = features_of(content or ItemContent(), made.price_bounds.tolist(), 512)
        expected = sum((made.embedding[b] * weight for b, weight in features), torch.zeros(8))
        assert torch.allclose(vector, expected, atol=1e-6)
    assert (vectors[1:3] == 0).all(), "nothing is known"


def test_some_items_features_are_taken_in_any_order() -> None:
    made = encoder()
    features = made.features(CONTENTS)
    index = torch.tensor([3, 1, 0, 3])
    assert torch.equal(made(features.take(index)), made(features)[index])
    assert len(features.take(index)) == 4
    assert len(features.take(index[:0])) == 0


def with_content() -> Checkpoint:
    made = checkpoint()
    config = made.model.config.model_copy(update={"content_buckets": 64})
    model = BST(config)  # type: ignore[arg-type]
    model.load_state_dict(made.model.state_dict(), strict=False)
    assert model.content is not None
    torch.nn.init.normal_(model.content.embedding)
    return replace(made, model=model.eval())


def test_a_checkpoint_keeps_the_encoder() -> None:
    made = with_content()
    read = from_files(to_files(made, "v1", "2026-01-01T00:00:00Z"), "v1").model
    assert isinstance(read, BST)
    assert isinstance(made.model, BST)
    assert read.content is not None
    assert made.model.content is not None
    assert read.content.buckets == 64
    assert torch.equal(read.content.embedding, made.model.content.embedding)


def test_without_content_a_manifest_is_as_it_was() -> None:
    plain = to_files(checkpoint(), "v1", "2026-01-01T00:00:00Z")
    assert "content_buckets" not in json.loads(plain[MANIFEST])["model"]
    held = to_files(with_content(), "v1", "2026-01-01T00:00:00Z")
    assert json.loads(held[MANIFEST])["model"]["content_buckets"] == 64


@pytest.mark.parametrize("buckets", [0, 63, 2**40])
def test_a_manifest_that_names_another_encoder_is_refused(buckets: int) -> None:
    files = to_files(with_content(), "v1", "2026-01-01T00:00:00Z")
    manifest = json.loads(files[MANIFEST])
    manifest["model"]["content_buckets"] = buckets
    files[MANIFEST] = json.dumps(manifest).encode()
    with pytest.raises(CheckpointError, match="content"):
        from_files(files, "v1")
