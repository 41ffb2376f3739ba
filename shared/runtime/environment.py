"""The environment variables that hold secrets. Not in `settings`, which is slow to import."""

from __future__ import annotations

import json
import os

from nextclick.shared.runtime.masking import MASK, masked_url, secrets_of_options, secrets_of_url

CLIENT_CONFIG = "NEXTCLICK_KAFKA__CLIENT_CONFIG"
API_KEY = "NEXTCLICK_API__KEY"
URLS = (
    "NEXTCLICK_REDIS__URL",
    "NEXTCLICK_REGISTRY__URL",
    "NEXTCLICK_SCHEMA_REGISTRY__URL",
    "NEXTCLICK_TRAINER__EVENT_LOG",
)


def masked_value(name: str, value: str) -> str:
    """The value of an environment variable, with its secrets masked."""
    if name.upper() in (CLIENT_CONFIG, API_KEY):
        return MASK
    return masked_url(value) if name.upper() in URLS else value


def secrets() -> set[str]:
    """All secrets in our environment variables, valid or not; no output may contain one."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if name.upper() in URLS:
            found |= secrets_of_url(value)
        elif name.upper() == API_KEY:
            found |= {value} - {""}
        elif name.upper() == CLIENT_CONFIG:
            try:
                found |= secrets_of_options(json.loads(value))
            except (ValueError, AttributeError, RecursionError):
                found.add(value)  # not a JSON object: mask all of it, it may hold secrets
    return found
