"""Versions of a model that are broken in every way that we could think of."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from nextclick.shared.model.checkpoint import MANIFEST, VOCABULARY, WEIGHTS
from nextclick.shared.registry import Registry
from nextclick.shared.registry.registry import POINTER
from tests.integration.traffic import publish_model


def truncate(folder: Path, good: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2)


def flip_a_bit(folder: Path, good: Path) -> None:
    """Of a number: nothing but its checksum tells."""
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-4] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def take_another_versions_weights(folder: Path, good: Path) -> None:
    (folder / WEIGHTS).write_bytes((good / WEIGHTS).read_bytes())


def take_another_versions_manifest(folder: Path, good: Path) -> None:
    (folder / MANIFEST).write_bytes((good / MANIFEST).read_bytes())


def take_everything_of_another_version(folder: Path, good: Path) -> None:
    for name in (WEIGHTS, VOCABULARY, MANIFEST):
        (folder / name).write_bytes((good / name).read_bytes())


def lose_the_vocabulary(folder: Path, good: Path) -> None:
    (folder / VOCABULARY).unlink()


def cut_the_weights_shape(folder: Path, good: Path) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name] = tensors[name][:-1].contiguous()
    _sign(folder, WEIGHTS, safetensors.torch.save(tensors))


def write_nan(folder: Path, good: Path) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    tensors["network.norm.bias"][3] = float("nan")
    _sign(folder, WEIGHTS, safetensors.torch.save(tensors))


def point_neighbours_outside_the_catalogue(folder: Path, good: Path) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    tensors["neighbours.rows"][17, 0] = 1000
    _sign(folder, WEIGHTS, safetensors.torch.save(tensors))


def forget_items(folder: Path, good: Path) -> None:
    ids = json.loads((folder / VOCABULARY).read_bytes())
    _sign(folder, VOCABULARY, json.dumps(ids[:-1]).encode())


class _SideEffect:
    """Makes a folder beside the weights when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def disguise_a_pickle(folder: Path, good: Path) -> None:
    _sign(folder, WEIGHTS, pickle.dumps(_SideEffect(folder / "executed")))


def disguise_a_torch_pickle(folder: Path, good: Path) -> None:
    torch.save({"network": _SideEffect(folder / "executed")}, folder / WEIGHTS)
    _sign(folder, WEIGHTS, (folder / WEIGHTS).read_bytes())


FAULTS: list[Callable[[Path, Path], None]] = [
    truncate,
    flip_a_bit,
    take_another_versions_weights,
    take_another_versions_manifest,
    take_everything_of_another_version,
    lose_the_vocabulary,
    cut_the_weights_shape,
    write_nan,
    point_neighbours_outside_the_catalogue,
    forget_items,
    disguise_a_pickle,
    disguise_a_torch_pickle,
]


def publish_broken(root: Path, seed: int, fault: Callable[[Path, Path], None]) -> str:
    """Publish a version that is broken before the pointer names it."""
    registry = Registry(str(root))
    before = registry.pointer()
    assert before is not None
    elsewhere = root.with_name("elsewhere")
    version = publish_model(elsewhere, seed)
    fault(elsewhere / version, root / before.version)
    (elsewhere / version).rename(root / version)
    point_to(root, version)
    return version


def point_to(root: Path, version: str) -> None:
    """As `promote` would not: without a look at the version."""
    before = Registry(str(root)).pointer()
    assert before is not None
    content = json.dumps({"version": version, "history": [*before.history, before.version]})
    (root / ".pointer").write_text(content)
    (root / ".pointer").replace(root / POINTER)


def _sign(folder: Path, name: str, content: bytes) -> None:
    """Write a file with a manifest that vouches for it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
