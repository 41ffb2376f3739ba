"""Makes text safe to show: masks secrets, escapes control characters. No input or output."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

MASK = "…"

SHORTEST_SECRET = 4
"""Shorter secrets are not masked in running text: they occur in ordinary words."""

_read_from_files: set[str] = set()
"""Every password that this process has read from a file: a former one may still be valid."""

_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key|pem|cred|oauth|jaas|sig|sas$", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://).*(?=@)", re.DOTALL)  # to the last @: an S3 secret may hold a slash
_PARAMETER = re.compile(r"([?&]([^=&#]*)=)([^&#]*)")


def printable(text: str) -> str:
    """Escape line breaks, control characters and everything else that is not printable."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def masked_url(url: str) -> str:
    """The URL with its login, and query parameters that are named like secrets, masked."""
    without_login = _LOGIN.sub(MASK, url)
    return _PARAMETER.sub(
        lambda found: found[1] + (MASK if _SECRET_NAME.search(found[2]) else found[3]),
        without_login,
    )


def secrets_of_url(url: str) -> set[str]:
    """The secret parts of a URL, each as written and percent-decoded."""
    found = {value for _, name, value in _PARAMETER.findall(url) if _SECRET_NAME.search(name)}
    if login := _LOGIN.search(url):
        user, colon, password = login[0].partition(":")
        found.add(password if colon else user)
    return {form for secret in found for form in (secret, unquote(secret)) if secret}


def secrets_of_options(options: Mapping[str, Any]) -> set[str]:
    """The values of options that are named like secrets, such as sasl.password."""
    return {str(value) for name, value in options.items() if _SECRET_NAME.search(name) and value}


def mask_from_now_on(secret: str) -> None:
    """Let `redact` mask this secret, too, until the process ends."""
    _read_from_files.add(secret)


def redact(secrets: Iterable[str], text: str) -> str:
    """Mask every secret in a text, also where it is quoted by repr or JSON.

    Beside `secrets` those are masked that `mask_from_now_on` was given.
    """
    forms = {
        form
        for secret in {*secrets, *_read_from_files}
        if len(secret) >= SHORTEST_SECRET
        for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])
    }
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text
