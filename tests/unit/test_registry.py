from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.errors import CheckpointError, ConfigurationError, Unavailable
from shared.registry import POINTER, Pointer, Registry
from tests.unit.builders import checkpoint


@pytest.fixture(params=["folder", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    if request.param == "folder":
        return Registry(str(tmp_path / "registry"))
    return Registry(f"memory://{uuid.uuid4().hex}")


def test_an_empty_registry_has_no_pointer_and_no_versions(registry: Registry) -> None:
    assert registry.pointer() is None
    assert registry.versions() == []
    with pytest.raises(CheckpointError, match="no earlier version"):
        registry.rollback()


def test_what_is_published_is_current_and_loads(registry: Registry) -> None:
    registry.check_writable()
    version = registry.publish(checkpoint(), datetime(2026, 1, 31, 12, tzinfo=UTC))
    assert version.startswith("20260131T120000-")
    assert registry.pointer() == Pointer(version, [])
    assert registry.load(version).vocabulary.item_ids == checkpoint().vocabulary.item_ids
    assert registry.manifest(version).created_at == "2026-01-31T12:00:00+00:00"


def test_versions_sort_by_time_and_roll_back_step_by_step(registry: Registry) -> None:
    made = [
        registry.publish(checkpoint(seed=i), datetime(2026, 1, i, tzinfo=UTC)) for i in (1, 2, 3)
    ]
    assert registry.versions() == made
    assert registry.rollback() == made[1]
    assert registry.rollback() == made[0]
    with pytest.raises(CheckpointError, match="no earlier version"):
        registry.rollback()
    registry.promote(made[2])
    assert registry.pointer() == Pointer(made[2], [made[0]])
    registry.promote(made[2])  # again changes nothing
    assert registry.pointer() == Pointer(made[2], [made[0]])


@pytest.mark.parametrize("name", ["nowhere", "", ".", "..", "../x", "a/b", "/etc"])
def test_a_version_that_is_not_there_is_a_clear_error(registry: Registry, name: str) -> None:
    registry.publish(checkpoint())
    with pytest.raises(CheckpointError):
        registry.load(name)
    with pytest.raises(CheckpointError):
        registry.promote(name)


def test_a_broken_version_cannot_be_promoted(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    first, second = registry.publish(checkpoint(1)), registry.publish(checkpoint(2))
    (tmp_path / first / "vocabulary.json").unlink()
    with pytest.raises(CheckpointError, match=r"vocabulary\.json is missing"):
        registry.rollback()
    pointer = registry.pointer()
    assert pointer is not None
    assert pointer.version == second


def test_a_writer_that_dies_leaves_nothing_that_readers_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(str(tmp_path))
    good = registry.publish(checkpoint())

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        registry.publish(checkpoint(2))
    assert registry.versions() == [good]
    (tmp_path / ".20990101T000000-dead.tmp").mkdir()  # as SIGKILL would leave it
    (tmp_path / ".20990101T000000-dead.tmp" / "manifest.json").write_text("{}")
    assert registry.versions() == [good]
    pointer = registry.pointer()
    assert pointer is not None
    assert pointer.version == good


def test_a_writer_that_dies_before_the_pointer_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(str(tmp_path))
    good = registry.publish(checkpoint())

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        registry.publish(checkpoint(2))
    assert registry.pointer() == Pointer(good, [])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', "null"])
def test_an_unreadable_pointer_says_how_to_mend_it(tmp_path: Path, content: str) -> None:
    registry = Registry(str(tmp_path))
    version = registry.publish(checkpoint())
    (tmp_path / POINTER).write_text(content)
    with pytest.raises(CheckpointError, match="models promote"):
        registry.pointer()
    registry.promote(version)
    assert registry.pointer() == Pointer(version, [])


def test_a_registry_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = Registry(str(tmp_path / "file" / "registry"))
    with pytest.raises(Unavailable, match="NEXTCLICK_REGISTRY__URL"):
        registry.check_writable()
    with pytest.raises(Unavailable, match="NEXTCLICK_REGISTRY__URL"):
        registry.publish(checkpoint())


def test_an_unknown_protocol_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match="NEXTCLICK_REGISTRY__URL"):
        Registry("carrier-pigeon://loft")
