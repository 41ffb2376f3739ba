"""Broken and slow versions, broken pointers, while a worker serves: the good one goes on."""

from __future__ import annotations

import json
import os
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from nextclick.shared.model import Checkpoint, checkpoint
from nextclick.shared.registry import Pointer, Registry
from nextclick.shared.registry.registry import POINTER
from nextclick.shared.runtime.settings import PREFIX
from nextclick.shared.schemas import Click
from tests.faults import breaking
from tests.faults.children import Prepare
from tests.faults.conftest import MakeStand, Report
from tests.faults.oracle import Verdict, judge
from tests.faults.stand import Stand, Stopwatch
from tests.integration.traffic import Answers, make_clicks, publish_model
from tests.waiting import until

CLICKS = 20
NO_GUARD = {f"{PREFIX}WORKER__GUARD_CLICKS": "0"}
"""These models are random: the guard would find one of them worse."""


class Serving:
    """A worker that serves, and which version has answered which clicks."""

    def __init__(self, stand: Stand, worker: ForkServerProcess) -> None:
        self.stand, self.worker = stand, worker
        self.registry = Registry(str(stand.registry))
        self._seed = 0
        self._sent: list[Click] = []
        self._answers = Answers(stand.kafka)
        self.wait_until_served(self.current())

    def current(self) -> str:
        pointer = self.registry.pointer()
        assert pointer is not None
        return pointer.version

    def wait_until_served(self, version: str) -> None:
        self.wait_for_line(f"serving model {version}")

    def wait_for_line(self, text: str) -> None:
        until(lambda: text in self.stand.log(self.worker), text, 20)

    def close(self) -> None:
        self._answers.close()

    def versions_of(self, count: int = CLICKS) -> set[str]:
        """Which versions answer some more clicks."""
        self._seed += 1
        clicks = make_clicks(count, seed=self._seed)
        self.stand.send(clicks)
        self._sent += clicks
        ids = {click.event_id for click in clicks}
        until(lambda: ids <= {a.event_id for a in self._answers.peek()}, "answers", 20)
        answers = [a for a in self._answers.seen if a.event_id in ids]
        assert len(answers) == count, "each is answered once"
        return {answer.model_version for answer in answers}

    def verdict(self) -> Verdict:
        """On all that was asked here and all that was answered."""
        verdict = judge(self._sent, self._answers.seen, self.stand.registry)
        assert verdict.doubled == 0
        return verdict


Serve = Callable[..., Serving]


@pytest.fixture
def serve(stand: MakeStand) -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(make_prepare: Callable[[Path], Prepare] | None = None) -> Serving:
            ours = stand()
            prepare = make_prepare(ours.folder) if make_prepare else None
            serving = Serving(ours, ours.worker(prepare, **NO_GUARD))
            stack.callback(serving.close)
            return serving

        yield start


def refused_and_the_good_one_serves(serving: Serving, version: str, good: str) -> None:
    serving.wait_for_line(f"model {version}")
    assert serving.versions_of() == {good}
    assert f"model {version} cannot serve, keeping {good}" in serving.stand.log(serving.worker)
    assert serving.worker.is_alive()


def test_broken_versions(serve: Serve, report: Report) -> None:
    serving = serve()
    ours, good = serving.stand, serving.current()
    for seed, fault in enumerate(breaking.FAULTS, start=10):
        watch = Stopwatch()
        version = breaking.publish_broken(ours.registry, seed, fault)
        refused_and_the_good_one_serves(serving, version, good)
        assert not (ours.registry / version / "executed").exists()
        report(f"model: {fault.__name__.replace('_', ' ')}", serving.verdict(), watch.seconds())
        breaking.point_to(ours.registry, good)


def take_every_file_for_whole() -> None:
    """No checksum says anything."""

    class Any(str):
        __slots__ = ()

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

    checkpoint.hashlib = types.SimpleNamespace(  # type: ignore[assignment]
        sha256=lambda content: types.SimpleNamespace(hexdigest=lambda: Any())
    )


def test_without_checksums_a_flipped_bit_is_served(serve: Serve) -> None:
    """So the test above would see it if they were not looked at."""
    serving = serve(lambda folder: take_every_file_for_whole)
    ours, good = serving.stand, serving.current()
    version = breaking.publish_broken(ours.registry, 10, breaking.flip_a_bit)
    with pytest.raises(AssertionError):
        refused_and_the_good_one_serves(serving, version, good)
    assert serving.versions_of() == {version}


POINTERS: dict[str, bytes] = {
    "a missing version": json.dumps({"version": "gone", "history": []}).encode(),
    "nothing": b"",
    "half a pointer": b'{"version": "2026',
    "a place outside the registry": json.dumps({"version": "../x", "history": []}).encode(),
    "bytes that are no text": b"\xff\xfe\xfd",
}


def note_looks(folder: Path) -> None:
    """A byte for each time that the worker has looked at the pointer."""
    looks = os.open(folder / "looks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pointer = Registry.pointer

    def noted(self: Registry) -> Pointer | None:
        try:
            return pointer(self)
        finally:
            os.write(looks, b".")

    Registry.pointer = noted  # type: ignore[method-assign]


def test_broken_pointers(serve: Serve, report: Report) -> None:
    serving = serve(partial(partial, note_looks))
    ours, good = serving.stand, serving.current()
    looks = ours.folder / "looks"
    whole = (ours.registry / POINTER).read_bytes()
    for what, content in POINTERS.items():
        watch = Stopwatch()
        (ours.registry / POINTER).write_bytes(content)
        seen = looks.stat().st_size
        until(lambda seen=seen: looks.stat().st_size > seen + 1, "it has looked", 20)
        assert serving.versions_of() == {good}
        report(f"pointer to {what}", serving.verdict(), watch.seconds())
    (ours.registry / POINTER).write_bytes(whole)
    newer = publish_model(ours.registry, seed=2)
    serving.wait_until_served(newer)
    assert serving.versions_of() == {newer}


def load_slowly(folder: Path) -> None:
    """Every version but the first is there only once somebody says so."""
    asked, go_on = folder / "asked", folder / "go_on"
    load, first = Registry.load, threading.Event()

    def slowly(self: Registry, version: str) -> Checkpoint:
        if first.is_set():
            asked.touch()
            until(go_on.exists, "leave to go on")
        first.set()
        return load(self, version)

    Registry.load = slowly  # type: ignore[method-assign]


def test_a_version_that_is_slow_to_load(serve: Serve, report: Report) -> None:
    serving = serve(partial(partial, load_slowly))
    ours, good = serving.stand, serving.current()
    asked, go_on = ours.folder / "asked", ours.folder / "go_on"
    slow = publish_model(ours.registry, seed=2)
    until(asked.exists, "the worker asks for it", 20)
    assert serving.versions_of(200) == {good}
    watch = Stopwatch()
    go_on.touch()
    serving.wait_until_served(slow)
    assert serving.versions_of() == {slow}
    report("model slow to load", serving.verdict(), watch.seconds())


def test_ten_versions_one_upon_the_other(serve: Serve, report: Report) -> None:
    serving = serve()
    ours = serving.stand
    clicks = make_clicks(500, seed=99)
    made = []
    for i in range(10):
        ours.send(clicks[i * 50 : (i + 1) * 50])
        made.append(publish_model(ours.registry, seed=10 + i))
    watch = Stopwatch()
    serving.wait_until_served(made[-1])
    ours.wait_for_all()
    assert serving.versions_of() == {made[-1]}
    verdict = ours.verdict()
    assert verdict.doubled == 0
    assert verdict.sent == 500 + CLICKS
    report("ten models one upon the other", verdict, watch.seconds())
