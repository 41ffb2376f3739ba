"""Where object stores differ from folders: their errors, and conditional writes.

An object is written atomically. There are no folders to create or lock, and buckets are not created
by us. S3 and its compatibles (MinIO, R2, Ceph) support conditional writes: If-Match, only if the
object is unchanged since it was read, and If-None-Match, only if it does not exist. On other object
stores, the last of two concurrent writers wins.
"""

from __future__ import annotations

from typing import Any

_S3 = {"s3", "s3a"}
_OTHERS = {"gs", "gcs", "abfs", "az", "abfss", "oss"}
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict"}


class PreconditionFailed(Exception):
    """Another writer has changed the object since it was read."""


def is_object_store(fs: Any) -> bool:
    """Whether this fsspec file system keeps objects, without real folders."""
    return bool(_protocols(fs) & (_S3 | _OTHERS))


def storage_errors(fs: Any) -> tuple[type[Exception], ...]:
    """The errors that a file system raises beside OSError if it is away or refuses access."""
    if not _protocols(fs) & _S3:
        return ()
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError


def is_bucket_error(error: Exception) -> bool:
    """Whether the bucket is missing, not just the object."""
    return _code(error) == "NoSuchBucket"


def has_etags(fs: Any) -> bool:
    """Whether writes can be made conditional on what is there."""
    return bool(_protocols(fs) & _S3)


def etag_of(fs: Any, path: str) -> str | None:
    """The ETag of an object; None if the object is missing, "" if the store has no ETags."""
    if not has_etags(fs):
        return ""
    try:
        return str(fs.info(path)["ETag"])
    except FileNotFoundError as error:
        if is_bucket_error(error):
            raise
        return None


def write_if_unchanged(fs: Any, path: str, content: bytes, tag: str | None) -> None:
    """Write an object if its ETag is still `tag`, as `etag_of` gave it; else PreconditionFailed."""
    condition = {} if tag == "" else {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
    try:
        fs.pipe_file(path, content, **condition)
    except OSError as error:
        if _code(error) in _REFUSED:
            raise PreconditionFailed from None
        raise


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def _code(error: Exception) -> str:
    response = getattr(error.__cause__ or error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))
