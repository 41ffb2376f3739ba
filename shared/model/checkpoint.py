"""A model version and its files: weights, vocabulary, manifest, and perhaps related items.

Weights are safetensors, not pickle, so a checkpoint can hold numbers but never code. The manifest
holds the SHA-256 of every other file, the metrics, and what the model was trained on. A version
that was refitted after it was judged has the judged weights beside, in a file of their own: only
the next retraining reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from nextclick.shared.errors import CheckpointError
from nextclick.shared.model import related as related_tables
from nextclick.shared.model.bst import BST
from nextclick.shared.model.bst_network import BSTConfig
from nextclick.shared.model.calibration import UNCALIBRATED, Calibration
from nextclick.shared.model.related import RelatedLists
from nextclick.shared.model.session_model import SessionModel
from nextclick.shared.model.source_bst import SourceBST, SourceBSTConfig
from nextclick.shared.windows import PADDING, IntArray

WEIGHTS = "model.safetensors"
JUDGED_WEIGHTS = "judged.safetensors"
VOCABULARY = "vocabulary.json"
RELATED = "related.safetensors"
MANIFEST = "manifest.json"
_POPULARITY = "popularity"


ModelConfig = Annotated[BSTConfig | SourceBSTConfig, Field(discriminator="kind")]


def build(config: BSTConfig | SourceBSTConfig) -> SessionModel:
    """Make a model with random weights from its configuration."""
    return BST(config) if isinstance(config, BSTConfig) else SourceBST(config)


class Manifest(BaseModel):
    """The content of `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: int = Field(5, ge=4, le=5)
    """4 knew no calibration."""
    version: str
    parent: str | None
    created_at: str
    """ISO 8601, UTC."""
    preset: str
    model: ModelConfig
    calibration: Calibration = UNCALIBRATED
    metrics: dict[str, float]
    """Finite numbers only; a metric that could not be computed is left out."""
    training: dict[str, Any]
    """The log it was trained on: clicks, users, first and last event time, …"""
    files: dict[str, str]
    """File name → SHA-256."""


class Vocabulary:
    """Item id ↔ catalogue row. Row 0 is padding, so the first id is row 1."""

    def __init__(self, item_ids: list[str]) -> None:
        self.item_ids = item_ids

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids, start=1)}

    def rows(self, item_ids: list[str]) -> IntArray:
        """Catalogue rows of the ids, shape [len(item_ids)]; PADDING for an unknown id."""
        row_of = self._row_of
        return np.array([row_of.get(item_id, PADDING) for item_id in item_ids], np.int64)

    def only(self, item_ids: Collection[str]) -> Vocabulary:
        """A vocabulary of those ids that are in `item_ids`, too, in the same order."""
        wanted = set(item_ids)
        return Vocabulary([item_id for item_id in self.item_ids if item_id in wanted])

    def extended(self, item_ids: list[str]) -> Vocabulary:
        """A vocabulary with the unknown ones of `item_ids` appended; existing rows stay valid."""
        new = dict.fromkeys(i for i in item_ids if i not in self._row_of)
        return Vocabulary([*self.item_ids, *new])


@dataclass(frozen=True)
class Checkpoint:
    """A model with everything that is needed to serve it."""

    model: SessionModel
    vocabulary: Vocabulary
    popularity: IntArray
    """Shape [items]: users per item in the training log; ranks the fallback list."""
    preset: str
    parent: str | None
    metrics: dict[str, float]
    training: dict[str, Any]
    calibration: Calibration = UNCALIBRATED
    """From the model's probabilities to those of the lists."""
    related: RelatedLists | None = None
    """None: not computed, or not read."""


def to_files(
    checkpoint: Checkpoint, version: str, created_at: str, judged: Checkpoint | None = None
) -> dict[str, bytes]:
    """Serialise to file name → content, the manifest last. created_at: ISO 8601, UTC.

    judged: the model that was judged, if `checkpoint` is its refit; its items are the first ones of
    the refit.
    """
    files = {
        WEIGHTS: _weights(checkpoint),
        VOCABULARY: json.dumps(checkpoint.vocabulary.item_ids, ensure_ascii=False).encode(),
    }
    if checkpoint.related is not None:
        files[RELATED] = related_tables.to_bytes(checkpoint.related)
    if judged is not None:
        ids = judged.vocabulary.item_ids
        assert ids == checkpoint.vocabulary.item_ids[: len(ids)]
        files[JUDGED_WEIGHTS] = _weights(judged)
    manifest = Manifest(
        version=version,
        parent=checkpoint.parent,
        created_at=created_at,
        preset=checkpoint.preset,
        model=checkpoint.model.config,
        calibration=checkpoint.calibration,
        metrics={k: v for k, v in checkpoint.metrics.items() if math.isfinite(v)},
        training=checkpoint.training,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    files[MANIFEST] = manifest.model_dump_json(indent=2).encode()
    return files


def _weights(checkpoint: Checkpoint) -> bytes:
    tensors = {k: v.detach().cpu().contiguous() for k, v in checkpoint.model.state_dict().items()}
    tensors[_POPULARITY] = torch.from_numpy(checkpoint.popularity)
    return safetensors.torch.save(tensors)


def parse_manifest(content: bytes, version: str) -> Manifest:
    """Read a manifest; raises CheckpointError if it is invalid or names another version."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(
            f"version {version}: {MANIFEST} is broken "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']})"
        ) from None
    if manifest.version != version:
        raise CheckpointError(f"version {version}: its manifest says {manifest.version}")
    return manifest


def check_sha256(name: str, content: bytes, manifest: Manifest) -> None:
    """Raise CheckpointError if a file is not the one that the manifest names."""
    if hashlib.sha256(content).hexdigest() != manifest.files.get(name):
        raise CheckpointError(f"version {manifest.version}: {name} does not match its SHA-256")


def read_item_ids(content: bytes, manifest: Manifest) -> list[str]:
    """Read VOCABULARY; raises CheckpointError if it is not that of the manifest."""
    check_sha256(VOCABULARY, content, manifest)
    try:
        item_ids = json.loads(content)
    except (ValueError, RecursionError):
        item_ids = None
    if not are_item_ids(item_ids, manifest.model.items):
        raise CheckpointError(
            f"version {manifest.version}: {VOCABULARY} does not list {manifest.model.items} "
            "item ids"
        )
    found: list[str] = item_ids
    return found


def from_files(files: Mapping[str, bytes], version: str, *, judged: bool = False) -> Checkpoint:
    """Rebuild a checkpoint on the CPU, without its related items, and validate it.

    judged: the model that was judged, from JUDGED_WEIGHTS. Raises CheckpointError for a missing,
    truncated or altered file, weights of another shape, a vocabulary of another size, neighbours
    outside it, or weights that are not finite.
    """
    weights = JUDGED_WEIGHTS if judged else WEIGHTS
    for name in (MANIFEST, weights, VOCABULARY):
        if name not in files:
            raise CheckpointError(f"version {version}: {name} is missing")
    manifest = parse_manifest(files[MANIFEST], version)
    check_sha256(weights, files[weights], manifest)
    config = manifest.model
    try:
        tensors = safetensors.torch.load(files[weights])
        popularity = tensors.pop(_POPULARITY)
        if judged:
            items = popularity.numel()
            if not 1 <= items <= config.items:
                raise ValueError(f"{items} items, but {config.items} in the refit")
            config = config.model_copy(update={"items": items})
        _check_shapes(config, tensors)
        model = build(config)
        model.load_state_dict(tensors)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        summary = " ".join(str(error).split())[:300]
        raise CheckpointError(f"version {version}: {weights} cannot be loaded: {summary}") from None
    items = config.items
    item_ids = read_item_ids(files[VOCABULARY], manifest)[:items]
    if (
        popularity.dtype != torch.int64
        or popularity.shape != (items,)
        or not (popularity >= 0).all()
    ):
        raise CheckpointError(f"version {version}: {_POPULARITY} is not one count for each item")
    if isinstance(model, BST) and not _are_rows(model.neighbours.rows, items):
        raise CheckpointError(f"version {version}: some neighbours are not in the catalogue")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise CheckpointError(f"version {version}: some weights are not finite")
    return Checkpoint(
        model=model.eval(),
        vocabulary=Vocabulary(item_ids),
        popularity=popularity.numpy(),
        preset=manifest.preset,
        parent=manifest.parent,
        metrics=manifest.metrics,
        training=manifest.training,
        calibration=manifest.calibration,
    )


def _check_shapes(config: BSTConfig | SourceBSTConfig, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError unless names and shapes of the tensors are those of such a model.

    Checked before the model is built, because a wrong manifest could require too much memory.
    """
    if config.layers > len(tensors):  # each layer has several tensors; do not build a billion
        raise ValueError(f"{config.layers} layers, but {len(tensors)} tensors")
    with torch.device("meta"):  # allocates no memory
        expected = {name: value.shape for name, value in build(config).state_dict().items()}
    found = {name: value.shape for name, value in tensors.items()}
    if expected != found:
        differing = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise ValueError(f"weights of another shape: {', '.join(differing[:5])}")


def _is_text(item_id: str) -> bool:
    # JSON can hold half a surrogate pair; a recommendation with one could not be encoded.
    return not any("\ud800" <= character <= "\udfff" for character in item_id)


def _are_rows(rows: torch.Tensor, items: int) -> bool:
    return bool(((rows >= PADDING) & (rows <= items)).all())


def are_item_ids(content: object, items: int) -> bool:
    """Whether it is a list of so many different ids, which JSON can hold."""
    return (
        isinstance(content, list)
        and all(isinstance(item_id, str) and _is_text(item_id) for item_id in content)
        and len(content) == len(set(content)) == items
    )
