"""What a user clicked and bought of late, and what of it profiles keep out of lists. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nextclick.shared.profiles import Profile
from nextclick.shared.schemas import KeptOutItems

PAST_KEPT = 500
"""The newest clicks of a user that are looked at, whatever their days."""
DAY_MS = 86_400_000


class PastClick(NamedTuple):
    """One of a user's clicks."""

    item_id: str
    at: int
    """The newest event time of the user by then, epoch ms."""
    bought: bool


def days_of(profiles: Iterable[Profile]) -> tuple[float, float]:
    """The days for which the profiles keep clicked and bought items out; 0: for none."""
    every = list(profiles)
    return (
        max((p.exclude_seen_days or 0.0 for p in every), default=0.0),
        max((p.exclude_bought_days or 0.0 for p in every), default=0.0),
    )


def check_days(asked: Iterable[Profile], known: Iterable[Profile]) -> None:
    """Raise ValueError if profiles ask for more days than is kept for the known ones."""
    most, kept = max(days_of(asked)), max(days_of(known))
    if most > kept:
        raise ValueError(
            f"clicks of {most:g} days are asked for, and kept for {kept:g}: the longest "
            "exclude_seen_days or exclude_bought_days of NEXTCLICK_PROFILES"
        )


def kept_out(
    past: Sequence[PastClick], now_ms: int, profiles: Iterable[Profile]
) -> KeptOutItems | None:
    """What the profiles keep out of a list at a time; None if they do not ask.

    An item that was clicked and bought counts as clicked, if both keep it out.
    """
    seen_days, bought_days = days_of(profiles)
    if not seen_days and not bought_days:
        return None
    newest = past[-PAST_KEPT:]
    seen = {c.item_id: None for c in newest if now_ms - c.at < seen_days * DAY_MS}
    bought = {
        c.item_id: None
        for c in newest
        if c.bought and now_ms - c.at < bought_days * DAY_MS and c.item_id not in seen
    }
    return KeptOutItems(seen=list(seen), bought=list(bought))
