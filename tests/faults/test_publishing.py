"""Whoever publishes, promotes or rolls back dies at every step; readers see a whole model or none.

What is on the disk is what counts, so nothing else runs here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch

from nextclick.shared.errors import Unavailable
from nextclick.shared.model import Scorer
from nextclick.shared.registry import ModelSlot, Pointer, Registry
from tests.faults import children, dying
from tests.faults.collecting import leftovers
from tests.integration.traffic import publish_model
from tests.waiting import until


def publish(root: Path) -> None:
    """As a trainer does that starts."""
    Registry(str(root)).check_writable()
    publish_model(root, seed=3)


def promote_the_old(root: Path) -> None:
    registry = Registry(str(root))
    pointer = registry.pointer()
    assert pointer is not None
    registry.promote(pointer.history[0])


def roll_back(root: Path) -> None:
    Registry(str(root)).rollback()


ACTIONS: dict[str, Callable[[Path], None]] = {
    "publish": publish,
    "promote": promote_the_old,
    "rollback": roll_back,
}


def act(action: Callable[[Path], None], root: Path, prepare: Callable[[], None]) -> None:
    prepare()
    action(root)


def make(root: Path) -> list[str]:
    """A registry with two versions, and what somebody who was killed long ago has left there."""
    made = [publish_model(root, seed) for seed in (1, 2)]  # in one second: their order is luck
    (root / ".20200101T000000-dead.tmp").mkdir()
    (root / ".20200101T000000-dead.tmp" / "model.safetensors").write_bytes(b"half a model")
    return made


def serves(registry: Registry) -> str | None:
    """What a worker that starts now would serve."""
    slot = ModelSlot(registry, lambda c: Scorer(c, torch.device("cpu"), 10), 1.0)
    slot.check()
    return slot.model.version if slot.model else None


def look(root: Path, allowed: list[Pointer | None]) -> None:
    registry = Registry(str(root))
    pointer = registry.pointer()
    assert pointer in allowed
    for version in registry.versions():
        registry.load(version)
    assert serves(registry) == (pointer.version if pointer else None)


def go_on(root: Path) -> None:
    """The next trainer starts."""
    registry = Registry(str(root))
    before = registry.pointer()
    registry.check_writable()
    assert leftovers(root) == []
    version = publish_model(root, seed=4)
    expected = [*before.history, before.version] if before else []
    assert registry.pointer() == Pointer(version, expected)
    registry.load(version)
    assert leftovers(root) == []


@pytest.mark.parametrize(
    "action",
    [pytest.param(a, marks=() if a == "rollback" else pytest.mark.long) for a in ACTIONS],
)
def test_killed_before_any_change_to_the_registry(action: str, tmp_path: Path) -> None:
    template = tmp_path / "template"
    old, new = make(template)
    died = []

    def begin(number: int) -> ForkServerProcess:
        folder = tmp_path / str(number)
        shutil.copytree(template, folder / "registry")
        prepare = partial(dying.at_change, number, folder / "registry", steps=folder / "steps")
        return children.call(
            partial(act, ACTIONS[action], folder / "registry", prepare), folder / "output"
        )

    for number in dying.deaths(begin):
        root = tmp_path / str(number) / "registry"
        died.append((tmp_path / str(number) / "steps").read_text().splitlines()[-1].split()[0])
        before = Pointer(new, [old])
        published = [v for v in Registry(str(root)).versions() if v not in (old, new)]
        after = {
            "publish": Pointer(published[0], [old, new]) if published else before,
            "promote": Pointer(old, [old, new]),
            "rollback": Pointer(old, []),
        }[action]
        renamed = died.count("os.rename") - (died[-1] == "os.rename")
        changed = renamed == (2 if action == "publish" else 1)
        look(root, [after if changed else before])
        go_on(root)
    of_a_file = ["open", "fsync"]
    of_the_pointer = [*of_a_file, "os.rename", "fsync"]
    if action == "publish":
        of_a_version = ["os.mkdir", "os.mkdir", *3 * of_a_file, "fsync", "os.rename", "fsync"]
        assert died[-15:] == [*of_a_version, *of_the_pointer]
    else:
        assert died == of_the_pointer


@pytest.mark.long
def test_killed_before_any_change_to_a_registry_that_is_new(tmp_path: Path) -> None:
    def begin(number: int) -> ForkServerProcess:
        root = tmp_path / str(number)
        prepare = partial(dying.at_change, number, root)
        return children.call(partial(act, publish, root, prepare), tmp_path / "output")

    for number in dying.deaths(begin):
        root = tmp_path / str(number)
        versions = Registry(str(root)).versions() if root.exists() else []
        look(root, [None, *(Pointer(version, []) for version in versions)])
        go_on(root)


def test_killed_in_the_middle_of_a_write(tmp_path: Path) -> None:
    template = tmp_path / "template"
    old, new = make(template)

    def begin(number: int) -> ForkServerProcess:
        root = tmp_path / str(number)
        shutil.copytree(template, root)
        prepare = partial(dying.in_mid_write, 4 ** (number - 1))
        return children.call(partial(act, publish, root, prepare), tmp_path / "output")

    for number in dying.deaths(begin):
        root = tmp_path / str(number)
        assert leftovers(root), "it died while it wrote"
        look(root, [Pointer(new, [old])])
        go_on(root)
    assert number > 5


def try_twice(action: Callable[[Path], None], root: Path, space: Path) -> None:
    """As a trainer or a person does: what failed is tried again when there is space."""
    dying.full_at(50)
    try:
        action(root)
    except Unavailable as error:
        dying.full_at(dying.NO_LIMIT)
        print(error, flush=True)
    until(space.exists, "space")
    action(root)


@pytest.mark.parametrize("action", list(ACTIONS))
def test_the_disk_is_full_and_then_it_is_not(action: str, tmp_path: Path) -> None:
    root, output, space = tmp_path / "registry", tmp_path / "output", tmp_path / "space"
    old, new = make(root)
    output.touch()
    process = children.call(partial(try_twice, ACTIONS[action], root, space), output)
    until(lambda: output.read_text().endswith("\n"), "it says so", 20)
    (line,) = output.read_text().splitlines()
    assert line.startswith("cannot write the registry")
    assert "File too large" in line
    look(root, [Pointer(new, [old])])
    assert Registry(str(root)).versions() == sorted([old, new])
    assert [name for name in leftovers(root) if not name.startswith(".20200101")] == []
    space.touch()
    process.join(90)
    assert process.exitcode == 0
    pointer = Registry(str(root)).pointer()
    assert pointer is not None
    expected = {
        "publish": Pointer(pointer.version, [old, new]),
        "promote": Pointer(old, [old, new]),
        "rollback": Pointer(old, []),
    }
    assert pointer == expected[action]
    go_on(root)


def publish_some(root: Path, seed: int) -> None:
    registry = Registry(str(root))
    for _ in range(5):
        registry.check_writable()
        print(publish_model(root, seed), flush=True)


def test_several_publish_at_once(tmp_path: Path) -> None:
    """And each clears up meanwhile what it takes for leftovers."""
    root, output = tmp_path / "registry", tmp_path / "output"
    processes = [children.call(partial(publish_some, root, seed), output) for seed in range(4)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    made = output.read_text().split()
    registry = Registry(str(root))
    pointer = registry.pointer()
    assert pointer is not None
    assert sorted([*pointer.history, pointer.version]) == sorted(made) == registry.versions()
    look(root, [pointer])
    assert leftovers(root) == []
