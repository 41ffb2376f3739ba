from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nextclick.shared.errors import CheckpointError, ConfigurationError, Unavailable
from nextclick.shared.registry import Pointer, Registry
from nextclick.shared.registry.registry import POINTER, Rollback
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


def test_a_refit_serves_and_the_model_that_was_judged_stays_beside_it(registry: Registry) -> None:
    judged, refitted = checkpoint(30, seed=1), checkpoint(32, seed=2)
    version = registry.publish(refitted, judged=judged)
    for written, read in (
        (refitted, registry.load(version)),
        (judged, registry.load_judged(version)),
    ):
        assert read.vocabulary.item_ids == written.vocabulary.item_ids
        assert read.popularity.tolist() == written.popularity.tolist()
        for name, value in written.model.state_dict().items():
            assert read.model.state_dict()[name].equal(value)
    alone = registry.publish(judged)
    assert registry.load_judged(alone).popularity.tolist() == judged.popularity.tolist()
    registry.rollback()
    assert registry.remove([alone]) == [alone]


def test_an_altered_judged_model_is_refused_and_the_version_serves(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    version = registry.publish(checkpoint(32), judged=checkpoint(30))
    file = tmp_path / version / "judged.safetensors"
    content = file.read_bytes()
    for broken in (content[:-1], b""):
        file.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"judged.safetensors does not match"):
            registry.load_judged(version)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"judged.safetensors is missing"):
        registry.load_judged(version)
    assert len(registry.load(version).vocabulary) == 32


def test_versions_sort_by_time_and_roll_back_step_by_step(registry: Registry) -> None:
    made = [
        registry.publish(checkpoint(seed=i), datetime(2026, 1, i, tzinfo=UTC)) for i in (1, 2, 3)
    ]
    assert registry.versions() == made
    assert registry.rollback().version == made[1]
    assert registry.rollback().version == made[0]
    with pytest.raises(CheckpointError, match="no earlier version"):
        registry.rollback()
    registry.promote(made[2])
    assert registry.pointer() == Pointer(made[2], [made[0]])
    registry.promote(made[2])  # again changes nothing
    assert registry.pointer() == Pointer(made[2], [made[0]])


def test_the_pointer_keeps_why_it_went_back(registry: Registry) -> None:
    first, second = (registry.publish(checkpoint(seed=i)) for i in (1, 2))
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    registry.rollback(reason="worse", now=at)
    registry.promote(second)
    registry.rollback(only_if=first, reason="nothing happens")
    pointer = registry.pointer()
    assert pointer is not None
    assert pointer.rollbacks == [Rollback(at, second, "worse")]


def test_a_pointer_of_an_earlier_version_has_no_rollbacks(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    version = registry.publish(checkpoint())
    (tmp_path / "current.json").write_text(json.dumps({"version": version, "history": []}))
    pointer = registry.pointer()
    assert pointer is not None
    assert pointer.rollbacks == []


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


def test_a_pointer_nested_without_end_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / POINTER).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="unreadable"):
        Registry(str(tmp_path)).pointer()


@pytest.mark.parametrize(
    "name",
    ["v\n2026 ERROR", "\x1b[2J", "\ud800", "v" * 300, "\u202ev"],
    ids=["two lines", "escape sequence", "half a surrogate pair", "long", "right to left"],
)
def test_a_pointer_to_what_is_no_name_is_said_on_one_line(registry: Registry, name: str) -> None:
    with pytest.raises(CheckpointError, match="not a version name") as caught:
        registry.load(name)
    assert str(caught.value).isprintable()


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


def test_a_path_to_a_real_version_is_not_a_version_name(tmp_path: Path) -> None:
    """A pointer that someone wrote must not lead out of the registry."""
    elsewhere = Registry(str(tmp_path / "elsewhere"))
    version = elsewhere.publish(checkpoint())
    registry = Registry(str(tmp_path / "registry"))
    registry.publish(checkpoint())
    for name in (f"../elsewhere/{version}", str(tmp_path / "elsewhere" / version)):
        with pytest.raises(CheckpointError, match="not a version name"):
            registry.load(name)


def test_a_name_that_no_file_can_have_is_not_a_version_name(registry: Registry) -> None:
    with pytest.raises(CheckpointError):
        registry.load("a\0b")


def test_an_altered_version_neither_loads_nor_is_promoted(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    first, second = registry.publish(checkpoint(1)), registry.publish(checkpoint(2))
    weights = tmp_path / first / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for action in (registry.load, registry.promote):
        with pytest.raises(CheckpointError, match="SHA-256"):
            action(first)
    assert registry.pointer() == Pointer(second, [first])


def test_a_published_version_is_one_folder_and_nothing_else_is_left(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    registry.check_writable()
    version = registry.publish(checkpoint())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([version, POINTER])
    assert sorted(path.name for path in (tmp_path / version).iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "vocabulary.json",
    ]


def test_a_write_that_fails_is_unavailable_and_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(str(tmp_path))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(Unavailable, match="No space left"):
        registry.publish(checkpoint())
    assert list(tmp_path.iterdir()) == []
    assert registry.pointer() is None


def test_on_an_object_store_the_manifest_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(f"memory://{uuid.uuid4().hex}")
    good = registry.publish(checkpoint())
    written = []
    pipe_file = registry._fs.pipe_file

    def die_at_the_manifest(path: str, content: bytes) -> None:
        if path.endswith("manifest.json"):
            raise KeyboardInterrupt
        written.append(path.rsplit("/", 1)[1])
        pipe_file(path, content)

    monkeypatch.setattr(registry._fs, "pipe_file", die_at_the_manifest)
    with pytest.raises(KeyboardInterrupt):
        registry.publish(checkpoint(2))
    assert sorted(written) == ["model.safetensors", "vocabulary.json"]
    assert registry.versions() == [good]
    assert registry.pointer() == Pointer(good, [])


def test_versions_are_sorted_whatever_order_they_were_written_in(registry: Registry) -> None:
    days = (20, 3, 11, 1)
    made = [registry.publish(checkpoint(), datetime(2026, 1, day, tzinfo=UTC)) for day in days]
    assert registry.versions() == sorted(made)
    assert registry.versions()[0].startswith("20260101T")


def test_the_pointers_history_is_bounded(registry: Registry) -> None:
    made = [registry.publish(checkpoint(), datetime(2026, 1, d, tzinfo=UTC)) for d in (1, 2)]
    for _ in range(26):
        for version in made:
            registry.promote(version)
    pointer = registry.pointer()
    assert pointer is not None
    assert pointer.version == made[1]
    assert len(pointer.history) == 50
    assert pointer.history[-1] == made[0]


def test_a_version_that_went_missing_cannot_be_rolled_back_to(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    first, second = registry.publish(checkpoint(1)), registry.publish(checkpoint(2))
    (tmp_path / first).rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=first):
        registry.rollback()
    assert registry.pointer() == Pointer(second, [first])


def test_a_folder_with_pattern_characters_in_its_name_lists_its_versions(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "shop [eu] *?"))
    version = registry.publish(checkpoint())
    assert registry.versions() == [version]


def test_a_file_in_the_way_of_the_registry_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = Registry(str(tmp_path / "file" / "registry"))
    for action in (registry.pointer, registry.rollback):
        with pytest.raises(Unavailable, match="NEXTCLICK_REGISTRY__URL"):
            action()


def test_it_is_rolled_back_only_if_nobody_was_faster(registry: Registry) -> None:
    made = [registry.publish(checkpoint(seed=i), datetime(2026, 1, i, tzinfo=UTC)) for i in (1, 2)]
    assert registry.rollback(only_if=made[0]) == Pointer(made[1], [made[0]])
    assert registry.rollback(only_if=made[1]) == Pointer(made[0], [])
    assert registry.rollback(only_if=made[1]) == Pointer(made[0], [])
    with pytest.raises(CheckpointError, match="no earlier version"):
        registry.rollback(only_if=made[0])


def test_two_who_roll_back_at_once_go_back_one_step(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    made = [
        registry.publish(checkpoint(seed=i), datetime(2026, 1, i, tzinfo=UTC)) for i in (1, 2, 3)
    ]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(Registry(str(tmp_path)).rollback, made[2]) for _ in range(4)]
        assert {future.result().version for future in futures} == {made[1]}
    assert registry.pointer() == Pointer(made[1], [made[0]])


DAYS = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 7)]


def published(registry: Registry) -> list[str]:
    """A version a day, from the 1st to the 6th."""
    return [registry.publish(checkpoint(), day) for day in DAYS]


@pytest.mark.parametrize(
    ("keep_versions", "keep_days", "removed"),
    [
        (2, 0, 4),  # the newest two stay
        (1, 3, 3),  # and all that are younger than three days
        (1, 0, 4),  # and the one to roll back to
        (6, 0, 0),
        (1, 100, 0),
    ],
)
def test_old_versions_are_removed(
    registry: Registry, keep_versions: int, keep_days: float, removed: int
) -> None:
    made = published(registry)
    assert registry.prune(keep_versions, keep_days, DAYS[-1]) == made[:removed]
    assert registry.versions() == made[removed:]
    assert registry.pointer() == Pointer(made[-1], made[removed:-1])
    assert registry.prune(keep_versions, keep_days, DAYS[-1]) == []


def test_the_version_in_use_and_the_one_before_it_are_never_too_old(registry: Registry) -> None:
    made = published(registry)
    registry.promote(made[1])
    registry.promote(made[0])
    assert registry.prune(1, 0, DAYS[-1]) == made[2:5]
    assert registry.versions() == [made[0], made[1], made[5]]
    assert registry.rollback().version == made[1]
    assert registry.rollback().version == made[5]


def test_a_version_waits_until_it_is_promoted_or_the_next_one_waits(registry: Registry) -> None:
    first = registry.publish(checkpoint(), DAYS[0], promote=False)
    assert registry.pointer() == Pointer(first, []), "where nothing serves nothing waits"
    second, third = (registry.publish(checkpoint(), day, promote=False) for day in DAYS[1:3])
    assert registry.pointer() == Pointer(first, [], waiting=third)
    fourth = registry.publish(checkpoint(), DAYS[3])
    assert registry.pointer() == Pointer(fourth, [first], waiting=third)
    assert registry.rollback() == Pointer(first, [], waiting=third)
    registry.promote(second)
    assert registry.pointer() == Pointer(second, [first], waiting=third)
    registry.promote(third)
    assert registry.pointer() == Pointer(third, [first, second])


def test_the_version_that_waits_is_never_too_old(registry: Registry) -> None:
    """Those that waited before it are as any other."""
    served = registry.publish(checkpoint(), DAYS[0])
    waited, waits = (registry.publish(checkpoint(), day, promote=False) for day in DAYS[1:3])
    later = [registry.publish(checkpoint(), day) for day in DAYS[3:]]
    assert registry.prune(1, 0, DAYS[-1]) == [served, waited, later[0]]
    assert registry.prune(1, 0, DAYS[-1] + timedelta(days=1000)) == []
    registry.promote(waits)
    registry.promote(later[2])
    registry.promote(later[1])
    assert registry.prune(1, 0, DAYS[-1]) == [waits]


def test_a_version_that_waits_can_be_removed_by_name(registry: Registry) -> None:
    """As after a forgetting."""
    served = registry.publish(checkpoint(), DAYS[0])
    waits = registry.publish(checkpoint(), DAYS[1], promote=False)
    assert registry.remove([served, waits]) == [waits]
    assert registry.pointer() == Pointer(served, [])


def test_without_a_version_that_waits_the_pointer_has_no_field_for_it(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    registry.publish(checkpoint(), DAYS[0])
    before = json.loads((tmp_path / POINTER).read_text())
    assert before.keys() == {"version", "history", "rollbacks", "changed_at"}
    waits = registry.publish(checkpoint(), DAYS[1], promote=False)
    after = json.loads((tmp_path / POINTER).read_text())
    assert after == before | {"waiting": waits, "changed_at": after["changed_at"]}


def test_item_ids_are_read_without_the_weights(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    version = registry.publish(checkpoint())
    (tmp_path / version / "model.safetensors").unlink()
    assert registry.item_ids(version) == [str(i) for i in range(1, 31)]
    (tmp_path / version / "vocabulary.json").write_text('["1"]')
    with pytest.raises(CheckpointError, match=r"vocabulary\.json does not match its SHA-256"):
        registry.item_ids(version)
    (tmp_path / version / "vocabulary.json").unlink()
    with pytest.raises(CheckpointError, match=r"vocabulary\.json is missing"):
        registry.item_ids(version)


def test_only_what_has_a_date_is_too_old(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    made = published(registry)
    (tmp_path / made[0]).rename(tmp_path / "golden")
    assert registry.prune(2, 0, DAYS[-1]) == made[1:4]
    assert registry.versions() == [*made[4:], "golden"]


def test_an_empty_registry_has_nothing_to_remove(registry: Registry) -> None:
    assert registry.prune(1, 0) == []


def test_a_removal_that_dies_leaves_no_half_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(str(tmp_path))
    made = published(registry)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.prune(2, 0, DAYS[-1])
    assert registry.versions() == made[1:]
    assert registry.prune(2, 0, DAYS[-1]) == made[1:4]
    registry.check_writable()
    assert sorted(path.name for path in tmp_path.iterdir()) == [*made[4:], POINTER]


def test_what_killed_writers_left_behind_is_removed_by_the_next_trainer(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    version = registry.publish(checkpoint())
    (tmp_path / ".20990101T000000-dead.tmp").mkdir()
    (tmp_path / ".20990101T000000-dead.tmp" / "manifest.json").write_text("{}")
    for name in (f".{POINTER}.dead", ".probe-dead", ".gitignore"):
        (tmp_path / name).write_text("half")
    registry.check_writable()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([version, POINTER, ".gitignore"])


def test_nothing_is_taken_for_a_leftover_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who clears away waits for the lock, and a writer has it until all is in place."""
    registry = Registry(str(tmp_path))
    locked = []

    def look(*_: object) -> None:
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked.append(False)
        except BlockingIOError:
            locked.append(True)
        finally:
            os.close(folder)

    monkeypatch.setattr("nextclick.shared.runtime.local_folder._sync", look)
    registry.publish(checkpoint())
    assert locked == [True, True, True]


def test_names_sort_by_time_and_one_that_is_taken_is_not_given_again(registry: Registry) -> None:
    """Twice at one moment, then the clock is set back."""
    now = datetime(2026, 1, 1, 12, microsecond=500_000, tzinfo=UTC)
    earlier = now - timedelta(milliseconds=1)
    made = [registry.publish(checkpoint(seed=i), at) for i, at in enumerate([now, now, earlier])]
    assert made == ["20260101T120000-8000", "20260101T120000-8001", "20260101T120000-7fbe"]
    assert registry.versions() == sorted(made)
    assert registry.pointer() == Pointer(made[2], made[:2])


def test_a_pointer_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(str(tmp_path))
    made = [registry.publish(checkpoint(seed=i)) for i in (1, 2)]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        registry.rollback()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*made, POINTER])
    assert registry.pointer() == Pointer(made[1], [made[0]])


def test_refusals_are_kept_the_newest_last(registry: Registry) -> None:
    assert registry.refusals() == []
    registry.publish(checkpoint())
    for i in range(60):
        registry.note_refusal(f"reason {i}", datetime(2026, 1, 1, 0, 0, i % 60, tzinfo=UTC))
    kept = registry.refusals()
    assert [refusal.reason for refusal in kept] == [f"reason {i}" for i in range(10, 60)]
    assert kept[-1].at == datetime(2026, 1, 1, 0, 0, 59, tzinfo=UTC)
    assert len(registry.versions()) == 1


def test_unreadable_refusals_are_none(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    registry.note_refusal("worse")
    (tmp_path / "refused.json").write_text('[{"at": 1}]')
    assert registry.refusals() == []
    registry.note_refusal("worse again")
    assert [refusal.reason for refusal in registry.refusals()] == ["worse again"]


def test_a_lock_that_fails_is_a_registry_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(str(tmp_path))
    version = registry.publish(checkpoint())

    def fails(folder: Path) -> object:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("nextclick.shared.runtime.local_folder.exclusive_lock", fails)
    for action in (
        registry.check_writable,
        lambda: registry.publish(checkpoint()),
        lambda: registry.promote(version),
        registry.rollback,
        lambda: registry.note_refusal("worse"),
    ):
        with pytest.raises(Unavailable, match="cannot lock the registry"):
            action()


def test_versions_from_before_a_forgetting_are_removed_but_the_served_one(
    registry: Registry,
) -> None:
    counts = [None, 1, 2, 1]
    versions = [
        registry.publish(
            replace(checkpoint(), training={} if count is None else {"forget_count": count}),
            datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second),
        )
        for second, count in enumerate(counts)
    ]
    assert registry.trained_before(0) == []
    assert registry.trained_before(2) == [versions[0], versions[1], versions[3]]
    assert registry.remove(registry.trained_before(2)) == versions[:2]
    pointer = registry.pointer()
    assert pointer is not None
    assert (pointer.version, pointer.history) == (versions[3], [versions[2]])
    assert registry.versions() == versions[2:]
    assert registry.remove(["no such version"]) == []
