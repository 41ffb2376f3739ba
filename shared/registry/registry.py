"""The model registry: model versions and a pointer to the served one, at any fsspec URL.

    <url>/<version>/model.safetensors, vocabulary.json, manifest.json
    <url>/<version>/related.safetensors    see nextclick.shared.model.related
    <url>/<version>/judged.safetensors    the weights before the refit, for the next retraining
    <url>/current.json          {"version": …, "history": [older …], "changed_at": …}, and if
                                there are any: the version that waits, live experiments
    <url>/<version>/delta-<number>    what was learned since, see nextclick.shared.model.delta
    <url>/<version>/delta.json        {"number": …}: the newest
    <url>/refused.json          [{"at": …, "reason": …}, …]: candidates that the gate refused

A version appears complete or not at all, and the pointer is replaced last and atomically, so a
reader never sees half a model, even if the writer dies. On a local disk, a version is written
under a temporary name, fsynced and renamed. On an object store, where single objects are written
atomically but folders are not, the manifest is written last. Two concurrent changes of the pointer
or of the refusals are serialised: by a lock on a local folder, by a conditional write and retry on
S3 (see `object_store`).
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from nextclick.shared import object_store
from nextclick.shared.errors import CheckpointError, ConfigurationError, Unavailable
from nextclick.shared.experiments import CURRENT, Experiment, check_name
from nextclick.shared.model import Checkpoint
from nextclick.shared.model import checkpoint as checkpoints
from nextclick.shared.model import delta as deltas
from nextclick.shared.model import related as related_tables
from nextclick.shared.model.checkpoint import MANIFEST, RELATED, WEIGHTS, Manifest
from nextclick.shared.model.delta import Delta
from nextclick.shared.model.related import RelatedLists
from nextclick.shared.runtime import local_folder
from nextclick.shared.runtime.masking import masked_url, redact, secrets_of_url
from nextclick.shared.version_names import base_of, name_of, number_of

POINTER = "current.json"
NEWEST_DELTA = "delta.json"
_DELTA = "delta-"
_PROBE = ".probe-"
_HISTORY_KEPT = 50
REFUSED = "refused.json"
_REFUSALS_KEPT = 50
_ROLLBACKS_KEPT = 20
_EXPERIMENTS_KEPT = 20
_MAX_ATTEMPTS = 20
"""Most attempts to change a file while other processes change it."""
_TIME = "%Y%m%dT%H%M%S"
_BETWEEN_NAMES = timedelta(microseconds=16)
"""More than a 65,536th of a second."""


@dataclass(frozen=True)
class Rollback:
    """When the registry went back from a version, and why."""

    at: datetime
    version: str
    """That no longer serves."""
    reason: str


@dataclass(frozen=True)
class Pointer:
    """The served version, and the versions served before it, newest last."""

    version: str
    history: list[str]
    rollbacks: list[Rollback] = field(default_factory=list, compare=False)
    """The newest ones, newest last."""
    experiments: list[Experiment] = field(default_factory=list)
    """The newest ones, newest last. Only the last one may be running."""
    waiting: str | None = None
    """The newest version that was published without being promoted, until it is."""

    @property
    def running(self) -> Experiment | None:
        """The experiment that runs: workers serve its versions instead of `version`."""
        last = self.experiments[-1] if self.experiments else None
        return last if last is not None and last.ended_at is None else None

    def without_running(self, outcome: str, now: datetime) -> Pointer:
        """The same with the running experiment ended, if there is one."""
        if self.running is None:
            return self
        ended = replace(self.running, ended_at=now, outcome=outcome)
        return replace(self, experiments=[*self.experiments[:-1], ended])


@dataclass(frozen=True)
class Refusal:
    """When and why the gate refused a candidate."""

    at: datetime
    reason: str


def published_at(version: str) -> datetime | None:
    """The time of publication in a version's name; None if the name holds none."""
    try:
        return datetime.strptime(version.partition("-")[0], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None


class Registry:
    """Publishes, lists, promotes and loads model versions."""

    def __init__(self, url: str, fs: AbstractFileSystem | None = None) -> None:
        """Open the registry at `url`, without reading or writing.

        fs: the file system on which `url` is a path; None: that of the URL. Raises
        ConfigurationError if no fsspec implementation supports the URL.
        """
        try:
            found = (
                fsspec.core.url_to_fs(url, use_listings_cache=False) if fs is None else (fs, url)
            )
        except (ValueError, ImportError) as error:
            raise ConfigurationError(
                f"NEXTCLICK_REGISTRY__URL = {masked_url(url)!r}: "
                f"{redact(secrets_of_url(url), str(error))}; "
                "use a folder, or a URL whose fsspec package is installed "
                "(for s3://: pip install 'nextclick[s3]')"
            ) from None
        self._fs: AbstractFileSystem = found[0]
        self._root: str = found[1]
        self.url = masked_url(url)  # without secrets, for logs and error texts
        self._secrets = secrets_of_url(url)
        self._local = isinstance(self._fs, LocalFileSystem)
        self._has_folders = not object_store.is_object_store(self._fs)
        self._errors: tuple[type[Exception], ...] = (
            OSError,
            *object_store.storage_errors(self._fs),
        )

    def check_writable(self) -> None:
        """Raise Unavailable if the registry is not writable; called before a long fit.

        Also removes what killed writers left behind in a folder.
        """
        probe = self._path(f"{_PROBE}{secrets.token_hex(4)}")
        with self._translated("write"):
            if self._has_folders:  # a missing bucket is not created
                self._fs.makedirs(self._root, exist_ok=True)
            with self._exclusive_lock() as exclusive_lock:
                if exclusive_lock:
                    local_folder.remove_leftovers(Path(self._root), f".{POINTER}.*", f"{_PROBE}*")
                self._fs.pipe_file(probe, b"")
                self._fs.rm_file(probe)

    def publish(
        self,
        checkpoint: Checkpoint,
        now: datetime | None = None,
        judged: Checkpoint | None = None,
        promote: bool = True,
    ) -> str:
        """Write a new version and point to it; returns its name.

        judged: the model that was judged, if `checkpoint` is its refit; see `load_judged`. Without
        `promote` the pointer names the version as the one that waits, in the place of any other,
        and workers do not load it; but where no version serves yet it is promoted.
        Names sort by time: a second, and of it the 65,536ths in hex. A name is never used twice.
        Raises Unavailable if the registry cannot be written.
        """
        now = now or datetime.now(UTC)
        with self._translated("write"):
            if self._local:
                Path(self._root).mkdir(parents=True, exist_ok=True)
            with (
                self._exclusive_lock()
            ):  # else another process may remove the half-written version as a leftover
                version = self._free_name(now)
                files = checkpoints.to_files(
                    checkpoint, version, now.isoformat(timespec="seconds"), judged
                )
                if self._local:
                    local_folder.add(Path(self._root) / version, files)
                else:
                    for name, content in files.items():  # the manifest is last
                        self._fs.pipe_file(self._path(version, name), content)
        if promote:
            self.promote(version)
        else:
            self._let_wait(version)
        return version

    def pointer(self) -> Pointer | None:
        """The pointer; None if nothing is published yet.

        Raises Unavailable if the registry cannot be read, CheckpointError for an invalid pointer.
        """
        try:
            with self._translated("read"):
                content = json.loads(self._fs.cat_file(self._path(POINTER)))
                return _pointer_of(content)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise Unavailable(self._complaint("read", error)) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"{POINTER} in the registry {self.url} is unreadable ({error}); "
                "`nextclick models promote VERSION` rewrites it"
            ) from None

    def load(self, version: str) -> Checkpoint:
        """Read and validate a version, or one with a delta (`<version>+<number>`).

        Raises CheckpointError if it is missing or broken, Unavailable if it cannot be read.
        """
        if (number := number_of(version)) is not None:
            base = base_of(version)
            return deltas.applied(self.load_delta(base, number), self.load(base))
        return self._load(self.manifest(version), WEIGHTS)

    def load_judged(self, version: str) -> Checkpoint:
        """The model of a version as it was judged: before it was refitted, if it was.

        It did not learn the clicks by which it was judged. Raises as `load` does.
        """
        manifest = self.manifest(version)
        refitted = checkpoints.JUDGED_WEIGHTS in manifest.files
        return self._load(manifest, checkpoints.JUDGED_WEIGHTS if refitted else WEIGHTS)

    def _load(self, manifest: Manifest, weights: str) -> Checkpoint:
        names = (weights, checkpoints.VOCABULARY)
        files = {name: self._file(manifest.version, name) for name in names}
        files[MANIFEST] = manifest.model_dump_json().encode()
        return checkpoints.from_files(files, manifest.version, judged=weights != WEIGHTS)

    def _file(self, version: str, name: str) -> bytes:
        """Read a file that a version must have; raises as `load` does."""
        try:
            with self._translated("read"):
                content: bytes = self._fs.cat_file(self._path(version, name))
        except FileNotFoundError:
            raise CheckpointError(f"version {version}: {name} is missing") from None
        return content

    def item_ids(self, version: str) -> list[str]:
        """Read and validate the item ids of a version, without its weights; raises as `load`."""
        manifest = self.manifest(version)
        return checkpoints.read_item_ids(self._file(version, checkpoints.VOCABULARY), manifest)

    def related_lists(self, version: str) -> RelatedLists | None:
        """Read and validate the related items of a version; None if it has none.

        Raises as `load` does.
        """
        manifest = self.manifest(version)
        if RELATED not in manifest.files:
            return None
        content = self._file(version, RELATED)
        checkpoints.check_sha256(RELATED, content, manifest)
        try:
            return related_tables.from_bytes(content, manifest.model.items)
        except CheckpointError as error:
            raise CheckpointError(f"version {version}: {error}") from None

    def manifest(self, version: str) -> Manifest:
        """Read the manifest of a version; raises as `load` does."""
        if not _is_name(version):
            raise CheckpointError(f"{version!r} is not a version name")
        try:
            with self._translated("read"):
                content = self._fs.cat_file(self._path(version, MANIFEST))
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(
                f"version {version} is not in the registry {self.url}; "
                "`nextclick models list` shows what is"
            ) from None
        return checkpoints.parse_manifest(content, version)

    def publish_delta(self, delta: Delta) -> None:
        """Write a delta beside its base, then name it as the newest.

        A number is used once: two learners cannot give one name to two deltas. Raises Unavailable,
        also if the number is used, and CheckpointError if the base is not in the registry.
        """
        name = f"{delta.base}/{_DELTA}{delta.number}"
        with self._exclusive_lock():
            self.manifest(delta.base)
            try:
                self._add(name, deltas.to_bytes(delta))
            except object_store.PreconditionFailed:
                raise Unavailable(
                    self._complaint("write", f"another process has published {name}")
                ) from None
            self._change(f"{delta.base}/{NEWEST_DELTA}", partial(self._newest_to, delta))
            if not self._local:
                self._remove_if_no_version(delta.base)

    def _newest_to(self, delta: Delta) -> bytes | None:
        newest = self.newest_delta(delta.base)
        if newest is not None and newest > delta.number:
            return None
        return json.dumps({"number": delta.number}).encode()

    def _remove_if_no_version(self, version: str) -> None:
        """Remove what was written beside a base that another process removed at the same moment."""
        try:
            self.manifest(version)
        except CheckpointError:
            with self._translated("write"):
                self._fs.rm(self._path(version), recursive=True)
            raise

    def newest_delta(self, version: str) -> int | None:
        """The number of a version's newest delta; None if there is none. Raises Unavailable."""
        try:
            with self._translated("read"):
                return int(
                    json.loads(self._fs.cat_file(self._path(version, NEWEST_DELTA)))["number"]
                )
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None

    def load_delta(self, version: str, number: int) -> Delta:
        """Read a delta of a version and check all but whether it fits the base's tensors.

        Raises CheckpointError if it is missing, broken or of another base, and Unavailable.
        """
        name = name_of(version, number)
        sha256 = self.manifest(version).files.get(WEIGHTS)
        try:
            with self._translated("read"):
                content = self._fs.cat_file(self._path(version, f"{_DELTA}{number}"))
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(f"the delta {name} is not in the registry {self.url}") from None
        delta = deltas.from_bytes(content)
        if (delta.base, delta.number, delta.base_sha256) != (version, number, sha256):
            raise CheckpointError(f"the delta {name} belongs to another base, or number")
        return delta

    def delta_numbers(self, version: str) -> list[int]:
        """Numbers of all deltas of a version that are there, ascending. Raises Unavailable."""
        with self._translated("read"):
            found = self._fs.find(self._path(version), maxdepth=1)
        names = [PurePosixPath(path).name for path in found]
        numbers = [name.removeprefix(_DELTA) for name in names if name.startswith(_DELTA)]
        return sorted(int(number) for number in numbers if number.isdecimal())

    def prune_deltas(self, version: str, before: int) -> int:
        """Remove a version's deltas with lower numbers; returns how many. Raises Unavailable."""
        old = [number for number in self.delta_numbers(version) if number < before]
        with self._translated("write"):
            for number in old:
                self._fs.rm_file(self._path(version, f"{_DELTA}{number}"))
        return len(old)

    def versions(self) -> list[str]:
        """Names of all complete versions, oldest first. Raises Unavailable."""
        with self._translated("read"):
            found = map(PurePosixPath, self._fs.find(self._root, maxdepth=2))
        names = [path.parent.name for path in found if path.name == MANIFEST]
        return sorted(name for name in names if not name.startswith("."))

    def prune(self, keep_versions: int, keep_days: float, now: datetime | None = None) -> list[str]:
        """Remove old versions; returns their names, oldest first.

        What stays: the newest `keep_versions`, all younger than `keep_days`, those whose names
        hold no time, the current one, the one that a rollback would go back to, the one that waits
        to be promoted, and those of an experiment that runs. Removed versions leave the pointer's
        history first. On an object store nothing keeps others from promoting a version just as it
        is removed; its files are then gone. Raises Unavailable, and CheckpointError for an invalid
        pointer.
        """
        now, age = now or datetime.now(UTC), timedelta(days=keep_days)

        def old(pointer: Pointer) -> set[str]:
            versions = self.versions()
            in_use = {pointer.version, *pointer.history[-1:], pointer.waiting}
            if (running := pointer.running) is not None:
                in_use |= {running.a, running.b}
            return {
                version
                for version in versions[:-keep_versions]
                if version not in in_use
                and (at := published_at(version)) is not None
                and now - at >= age
            }

        return self._remove_all(old)

    def trained_before(self, forget_count: int) -> list[str]:
        """Versions that were trained at a lower forget count, oldest first.

        The count is `Tombstones.count` of the event log. A version with a broken manifest is among
        them. Raises Unavailable.
        """
        found = []
        for version in self.versions() if forget_count else []:
            try:
                trained_at = self.manifest(version).training.get("forget_count", 0)
            except CheckpointError:
                trained_at = 0
            if trained_at < forget_count:
                found.append(version)
        return found

    def remove(self, versions: Collection[str]) -> list[str]:
        """Remove versions, all but the current one; returns their names, oldest first.

        There may be none left then that a rollback could go back to. An experiment ends if one of
        its versions goes. Raises as `prune`.
        """
        return self._remove_all(
            lambda pointer: {*versions}.intersection(self.versions()) - {pointer.version}
        )

    def _remove_all(self, choose: Callable[[Pointer], set[str]]) -> list[str]:
        doomed: set[str] = set()

        def without_doomed(pointer: Pointer | None) -> Pointer | None:
            doomed.clear()
            if pointer is None:
                return None
            doomed.update(choose(pointer))
            history = [version for version in pointer.history if version not in doomed]
            waiting = None if pointer.waiting in doomed else pointer.waiting
            new = replace(pointer, history=history, waiting=waiting)
            if (running := pointer.running) and (gone := doomed & {running.a, running.b}):
                new = new.without_running(f"version {min(gone)} was removed", datetime.now(UTC))
            return None if new == pointer else new

        with self._exclusive_lock():
            self._replace_pointer(without_doomed)
            for version in sorted(doomed):
                self._remove(version)
        return sorted(doomed)

    def _remove(self, version: str) -> None:
        with self._translated("write"):
            if self._local:
                local_folder.remove(Path(self._root) / version)
            else:
                self._fs.rm_file(self._path(version, MANIFEST))  # from now on it is no version
                self._fs.rm(self._path(version), recursive=True)

    def promote(self, version: str) -> None:
        """Point to a version of the registry, after checking that it loads; raises as `load`."""
        self._check_loads(version, "promote")

        def to_version(old: Pointer | None) -> Pointer | None:
            if old is not None and old.version == version:
                return None
            return Pointer(version, []) if old is None else _at_version(old, version)

        self._move_pointer(to_version, replace_invalid=True)

    def _let_wait(self, version: str) -> None:
        """Name a version as the one that waits, after checking that it loads."""
        self._check_loads(version, "publish")

        def with_waiting(old: Pointer | None) -> Pointer:
            return Pointer(version, []) if old is None else replace(old, waiting=version)

        self._move_pointer(with_waiting, replace_invalid=True)

    def _check_loads(self, version: str, verb: str) -> None:
        if base_of(version) != version:
            raise CheckpointError(f"{version} is a delta; {verb} its base, {base_of(version)}")
        self.load(version)

    def check_no_experiment(self) -> None:
        """Raise ConfigurationError while an experiment decides what workers serve.

        For people who promote or roll back: until it ends it would have no effect.
        """
        try:
            pointer = self.pointer()
        except CheckpointError:  # promoting rewrites it
            return
        if pointer is not None and pointer.running is not None:
            raise ConfigurationError(
                f"workers serve the versions of the experiment {pointer.running.name} until it "
                "ends: nextclick experiment stop, or stop --promote a or b"
            )

    def start_experiment(
        self, name: str, a: str, b: str, share: float, now: datetime | None = None
    ) -> Experiment:
        """Let workers serve version b to a share of the users, and a to the others.

        a, b: versions, or CURRENT. 0 < share < 1. Raises ConfigurationError if an experiment runs
        already or had the name, CheckpointError if there is no model yet or a version is missing,
        broken or a delta, and Unavailable.
        """
        check_name(name)
        for version in {a, b} - {CURRENT}:
            self._check_loads(version, "try")
        salt, now = secrets.token_hex(8), now or datetime.now(UTC)

        def started(old: Pointer | None) -> Pointer:
            if old is None:
                raise CheckpointError(f"the registry {self.url} has no model yet")
            if old.running is not None:
                raise ConfigurationError(
                    f"the experiment {old.running.name} is running, on all users; end it first: "
                    "nextclick experiment stop"
                )
            if name in [one.name for one in old.experiments]:
                raise ConfigurationError(
                    f"there was an experiment {name} already, which messages name; take another "
                    "name"
                )
            of_a, of_b = (old.version if v == CURRENT else v for v in (a, b))
            for version in (of_a, of_b):
                self.manifest(version)  # it may have been removed since it was loaded
            new = Experiment(name, salt, of_a, of_b, share, now)
            return replace(old, experiments=[*old.experiments, new][-_EXPERIMENTS_KEPT:])

        pointer = self._move_pointer(started)
        assert pointer is not None
        return pointer.experiments[-1]

    def stop_experiment(self, promote: str | None = None, now: datetime | None = None) -> Pointer:
        """End the running experiment; returns the pointer.

        promote: the arm whose version becomes the current one, in the same step; None: workers
        serve the version that the pointer names. Raises ConfigurationError if no experiment runs,
        CheckpointError if the version does not load, and Unavailable.
        """
        now = now or datetime.now(UTC)

        def stopped(old: Pointer | None) -> Pointer:
            if old is None or old.running is None:
                raise ConfigurationError("no experiment is running")
            ended = old.without_running(f"promoted {promote}" if promote else "stopped", now)
            if promote is None:
                return ended
            version = old.running.version_of("a" if promote == "a" else "b")
            self.load(version)
            return ended if version == old.version else _at_version(ended, version)

        pointer = self._move_pointer(stopped)
        assert pointer is not None
        return pointer

    def rollback(
        self,
        only_if: str | None = None,
        *,
        reason: str = "by hand",
        now: datetime | None = None,
    ) -> Pointer:
        """Point to the version that was served before; returns the resulting pointer.

        With `only_if`, nothing is changed unless that version is the current one. The pointer keeps
        the reasons of the newest rollbacks. Raises CheckpointError if there is no earlier version
        or it does not load, Unavailable if the registry cannot be reached.
        """
        now = now or datetime.now(UTC)

        def to_previous(old: Pointer | None) -> Pointer | None:
            if old is not None and only_if not in (None, old.version):
                return None
            if old is None or not old.history:
                raise CheckpointError(
                    f"the registry {self.url} has no earlier version to go back to"
                )
            *history, version = old.history
            self.load(version)
            rollbacks = [*old.rollbacks, Rollback(now, old.version, reason)][-_ROLLBACKS_KEPT:]
            if old.running is not None and old.version in (old.running.a, old.running.b):
                old = old.without_running(f"version {old.version} was rolled back: {reason}", now)
            return replace(old, version=version, history=history, rollbacks=rollbacks)

        pointer = self._move_pointer(to_previous)
        assert pointer is not None
        return pointer

    def _move_pointer(
        self, decide: Callable[[Pointer | None], Pointer | None], *, replace_invalid: bool = False
    ) -> Pointer | None:
        """Replace the pointer by decide(pointer); None leaves it. Returns the resulting pointer.

        With `replace_invalid`, an invalid pointer is passed to `decide` as None.
        """
        with self._exclusive_lock():
            return self._replace_pointer(decide, replace_invalid=replace_invalid)

    def _replace_pointer(
        self, decide: Callable[[Pointer | None], Pointer | None], *, replace_invalid: bool = False
    ) -> Pointer | None:
        """As `_move_pointer`, for who holds the lock."""
        result: Pointer | None = None

        def moved() -> bytes | None:
            nonlocal result
            try:
                result = self.pointer()
            except CheckpointError:
                if not replace_invalid:
                    raise
                result = None
            new = decide(result)
            if new is None:
                return None
            result = new
            return _bytes_of(new)

        self._change(POINTER, moved)
        return result

    def note_refusal(self, reason: str, now: datetime | None = None) -> None:
        """Record a refused candidate; the newest _REFUSALS_KEPT are kept.

        Raises Unavailable if the registry cannot be written.
        """
        now = now or datetime.now(UTC)
        if self._local:
            Path(self._root).mkdir(parents=True, exist_ok=True)

        def noted() -> bytes:
            newest = [*self.refusals(), Refusal(now, reason)][-_REFUSALS_KEPT:]
            entries = [{"at": one.at.isoformat(), "reason": one.reason} for one in newest]
            return json.dumps(entries).encode()

        with self._exclusive_lock():
            self._change(REFUSED, noted)

    def refusals(self) -> list[Refusal]:
        """The newest refusals, oldest first; none if the record is unreadable."""
        try:
            with self._translated("read"):
                entries = json.loads(self._fs.cat_file(self._path(REFUSED)))
            return [Refusal(datetime.fromisoformat(e["at"]), str(e["reason"])) for e in entries]
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return []

    def _free_name(self, now: datetime) -> str:
        while True:
            version = f"{now:{_TIME}}-{(now.microsecond << 16) // 1_000_000:04x}"
            if not self._fs.exists(self._path(version)):
                return version
            now += _BETWEEN_NAMES

    @contextlib.contextmanager
    def _exclusive_lock(self) -> Iterator[bool]:
        """Lock the registry for writing; yields whether the lock is held.

        Object stores and some network file systems have no lock. There, except on S3, one of two
        concurrent changes may be lost.
        """
        with contextlib.ExitStack() as stack:
            locked = False
            with self._translated("lock"):
                if self._local and Path(self._root).is_dir():
                    locked = stack.enter_context(local_folder.exclusive_lock(Path(self._root)))
            yield locked

    def _change(self, name: str, content: Callable[[], bytes | None]) -> None:
        """Replace a file by content(), which reads it; None leaves it. For who holds the lock.

        On S3 content() is called again if another process has replaced the file meanwhile.
        """
        for _ in range(_MAX_ATTEMPTS):
            with self._translated("read"):
                tag = object_store.etag_of(self._fs, self._path(name))
            new = content()
            if new is None:
                return
            try:
                self._replace(name, new, tag)
            except object_store.PreconditionFailed:
                continue
            return
        raise Unavailable(self._complaint("write", f"other processes keep changing {name}"))

    def _add(self, name: str, content: bytes) -> None:
        """Write a file that is not there; else PreconditionFailed. For who holds the lock."""
        has_etags = object_store.has_etags(self._fs)
        with self._translated("read"):
            if not has_etags and self._fs.exists(self._path(name)):
                raise object_store.PreconditionFailed
        self._replace(name, content, None if has_etags else "")

    def _replace(self, name: str, content: bytes, tag: str | None = "") -> None:
        """tag: see `object_store.write_if_unchanged`; by default whatever is there is replaced."""
        with self._translated("write"):
            if self._local:
                local_folder.replace(Path(self._root) / name, content)
            else:
                object_store.write_if_unchanged(self._fs, self._path(name), content, tag)

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    @contextlib.contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            if object_store.is_bucket_error(error):
                raise Unavailable(self._complaint(verb, "no such bucket")) from None
            if verb == "read":
                raise
            raise Unavailable(self._complaint(verb, "no such folder")) from None
        except self._errors as error:
            raise Unavailable(self._complaint(verb, error)) from None

    def _complaint(self, verb: str, why: object) -> str:
        reason = redact(self._secrets, str(why))
        keys = "" if self._has_folders else " and the keys that its package reads (S3: AWS_…)"
        return (
            f"cannot {verb} the registry {self.url} ({reason}); check NEXTCLICK_REGISTRY__URL{keys}"
        )


def _at_version(pointer: Pointer, version: str) -> Pointer:
    history = [*pointer.history, pointer.version][-_HISTORY_KEPT:]
    waiting = None if pointer.waiting == version else pointer.waiting
    return replace(pointer, version=version, history=history, waiting=waiting)


def _bytes_of(pointer: Pointer) -> bytes:
    rollbacks = [
        {"at": one.at.isoformat(), "version": one.version, "reason": one.reason}
        for one in pointer.rollbacks
    ]
    content: dict[str, Any] = {
        "version": pointer.version,
        "history": pointer.history,
        "rollbacks": rollbacks,
        "changed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if pointer.waiting is not None:
        content["waiting"] = pointer.waiting
    if pointer.experiments:
        content["experiments"] = [
            asdict(one)
            | {
                "started_at": one.started_at.isoformat(),
                "ended_at": one.ended_at and one.ended_at.isoformat(),
            }
            for one in pointer.experiments
        ]
    return json.dumps(content).encode()


def _pointer_of(content: dict[str, Any]) -> Pointer:
    version, history = str(content["version"]), [str(v) for v in content["history"]]
    rollbacks = [
        Rollback(datetime.fromisoformat(one["at"]), str(one["version"]), str(one["reason"]))
        for one in content.get("rollbacks", ())  # not written by earlier versions of nextclick
    ]
    experiments = [_experiment_of(one) for one in content.get("experiments", ())]
    waiting = content.get("waiting")
    return Pointer(version, history, rollbacks, experiments, waiting and str(waiting))


def _experiment_of(one: dict[str, Any]) -> Experiment:
    ended_at = one["ended_at"]
    return Experiment(
        name=str(one["name"]),
        salt=str(one["salt"]),
        a=str(one["a"]),
        b=str(one["b"]),
        share=float(one["share"]),
        started_at=datetime.fromisoformat(one["started_at"]),
        ended_at=None if ended_at is None else datetime.fromisoformat(ended_at),
        outcome=str(one["outcome"]),
    )


def _is_name(version: str) -> bool:
    """Whether it is a plain file name: printable, short, and without a path."""
    plain = version.isprintable() and len(version) <= 100
    return plain and PurePosixPath(version).name == version and version not in ("", ".", "..")
