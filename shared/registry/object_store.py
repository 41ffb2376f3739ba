"""What an object store does otherwise than a folder: its errors, and writing if nobody else has.

An object is written whole or not at all. There are no folders to make or lock, and a bucket is not
ours to make. S3 (and what speaks its protocol, such as MinIO, R2 and Ceph) can write an object only
if it still is the one that was read (If-Match), or is not there yet (If-None-Match); with others,
of two writers at the same time the last one wins.
"""

from __future__ import annotations

from typing import Any

_S3 = {"s3", "s3a"}
_OTHERS = {"gs", "gcs", "abfs", "az", "abfss", "oss"}
_REFUSED = {"PreconditionFailed", "ConditionalRequestConflict"}


class PreconditionFailed(Exception):
    """Somebody else has written the object since it was looked at."""


def is_object_store(fs: Any) -> bool:
    """Whether this fsspec file system keeps objects, without real folders."""
    return bool(_protocols(fs) & (_S3 | _OTHERS))


def storage_errors(fs: Any) -> tuple[type[Exception], ...]:
    """What a file system raises of its own when it is away or refuses us, beside OSError."""
    if not _protocols(fs) & _S3:
        return ()
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError


def is_bucket_error(error: Exception) -> bool:
    """Whether not just the object is missing."""
    return _code(error) == "NoSuchBucket"


def etag_of(fs: Any, path: str) -> str | None:
    """What changes whenever the object does; None if it is not there, "" if it cannot be told."""
    if not _protocols(fs) & _S3:
        return ""
    try:
        return str(fs.info(path)["ETag"])
    except FileNotFoundError as error:
        if is_bucket_error(error):
            raise
        return None


def write_if_unchanged(fs: Any, path: str, content: bytes, tag: str | None) -> None:
    """Write an object unless it has another tag meanwhile; then raises Changed."""
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
