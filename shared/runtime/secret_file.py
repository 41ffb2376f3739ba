"""Passwords in files, which may change while a process runs; whatever was read is masked."""

from __future__ import annotations

from pathlib import Path

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.runtime.masking import mask_from_now_on


def read_secret(path: str, setting: str) -> str:
    """The text of a file without the line break at its end; from now on it is masked everywhere.

    Raises ConfigurationError, which names `setting`, if the file cannot be read or holds nothing.
    """
    try:
        secret = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigurationError(f"{setting} = {path} cannot be read ({reason})") from None
    if not secret:
        raise ConfigurationError(f"{setting} = {path} is empty")
    mask_from_now_on(secret)
    return secret
