"""Live experiments: which user gets the lists of which model. Pure.

A user's arm depends on the experiment's salt and the user id alone, so every process, and whoever
reads the messages, computes the same one at any time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Literal, TypeAlias

from nextclick.shared.errors import ConfigurationError

Arm: TypeAlias = Literal["a", "b"]
ARMS: tuple[Arm, Arm] = ("a", "b")
CURRENT = "current"
"""In place of a version: the one that the registry's pointer names at the start."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASHES = 1 << 64


@dataclass(frozen=True)
class Experiment:
    """Two versions, and how users are split between them. It runs until `ended_at` is set."""

    name: str
    salt: str
    """Makes the split independent of that of other experiments."""
    a: str
    """The version of most users: what served before."""
    b: str
    """The version that is tried."""
    share: float
    """Of the users, whom b serves; 0 < share < 1."""
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = field(default="", compare=False)
    """Why it ended, for people."""

    def arm_of(self, user_id: str) -> Arm:
        """The arm of a user: b if the 64-bit BLAKE2b of `salt:user_id` / 2^64 < share."""
        digest = blake2b(f"{self.salt}:{user_id}".encode(), digest_size=8).digest()
        return "b" if int.from_bytes(digest) < self.share * _HASHES else "a"

    def version_of(self, arm: Arm) -> str:
        """The version that serves an arm."""
        return self.a if arm == "a" else self.b


def check_name(name: str) -> None:
    """Raise ConfigurationError for a name that messages and commands cannot have."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot name an experiment: 1 to 64 letters, digits, dots, dashes and "
            "underscores can"
        )


def parse_share(text: str) -> float:
    """A share of the users, such as 20% or 0.2. Raises ConfigurationError."""
    number = text.strip()
    try:
        share = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise ConfigurationError(
            f"a share of {text} is no experiment: b gets some of the users and a the others, "
            "say 20% or 0.2"
        )
    return share
