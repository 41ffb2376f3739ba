"""A bucket of S3, as far as a Registry uses one by fsspec.

Rules of the model: an object is written whole or not at all, and who reads, or lists, after a write
has been answered sees it. `If-Match` and `If-None-Match` are checked as the object is written
(PreconditionFailed). There are no folders. The client asks again while its time lasts if a
connection breaks, so it may be refused because of what it wrote itself (botocore). A request that
is held is heard when it arrives, whatever the client did since.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nextclick.shared.registry.registry import NEWEST_DELTA, POINTER, REFUSED
from tests.simulation.network import Connection, Reply, Server, TimedOut
from tests.simulation.scheduler import Process

REPLACED = (POINTER, NEWEST_DELTA, REFUSED)
"""Names of objects that change; all others are written once."""
TIMEOUT_SECONDS = 5.0


class _PreconditionFailed(OSError):
    response = {"Error": {"Code": "PreconditionFailed"}}  # noqa: RUF012  as botocore's errors have it


@dataclass
class Bucket:
    """The objects, and all that ever were."""

    protocol = "s3"
    on_changed: Callable[[str], None] = lambda path: None
    """Hears of an object that got another content although its name says that it never does."""
    objects: dict[str, bytes] = field(default_factory=dict)
    ever: dict[str, bytes] = field(default_factory=dict)

    def cat_file(self, path: str) -> bytes:
        """See AbstractFileSystem."""
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]

    def info(self, path: str) -> dict[str, str]:
        """With its ETag."""
        return {"ETag": str(zlib.crc32(self.cat_file(path)))}

    def pipe_file(
        self, path: str, content: bytes, IfMatch: str | None = None, IfNoneMatch: str | None = None
    ) -> None:
        """PutObject."""
        there = self.info(path)["ETag"] if path in self.objects else None
        if IfMatch not in (None, there) or (IfNoneMatch == "*" and there is not None):
            raise _PreconditionFailed(f"{path} is not what it was")
        known = self.ever.setdefault(path, content)
        if known != content and not path.endswith(REPLACED):
            self.on_changed(path)
        self.objects[path] = content

    def exists(self, path: str) -> bool:
        """Whether there is such an object, or one below it."""
        return path in self.objects or bool(self.find(path))

    def find(self, path: str, maxdepth: int | None = None) -> list[str]:
        """ListObjects."""
        found = [name for name in sorted(self.objects) if name.startswith(f"{path}/")]
        depth = path.count("/")
        return [n for n in found if maxdepth is None or n.count("/") - depth <= maxdepth]

    def rm_file(self, path: str) -> None:
        """DeleteObject: of one that is not there, too."""
        self.objects.pop(path, None)

    def rm(self, path: str, recursive: bool = False) -> None:
        """All below it."""
        for name in self.find(path):
            self.rm_file(name)


class BucketClient:
    """What a process has in the place of s3fs."""

    protocol = "s3"

    def __init__(self, process: Process, server: Server, bucket: Bucket) -> None:
        self._process = process
        self._server = server
        self._bucket = bucket

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._ask, name, getattr(self._bucket, name))

    def _ask(self, name: str, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Each request has a connection of its own: of a pool, and several threads use it."""

        def run(reply: Reply) -> None:
            try:
                reply((method(*arguments, **options), None))
            except OSError as error:
                reply((None, error))

        connection = Connection(self._process, self._server, "bucket")
        try:
            result, error = connection.request(f"bucket {name}", run, TIMEOUT_SECONDS)
        except TimedOut:
            raise OSError(f"no answer to {name} of {arguments[0]}") from None
        if error is not None:
            raise error
        return result
