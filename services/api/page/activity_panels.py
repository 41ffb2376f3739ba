"""Two panels: the most active shoppers, to pick one, and the newest clicks."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from nextclick.services.api.page.stream import AnsweredClick, Shopper

ACTIVE = 10
"""Shoppers in the list: those with the most clicks."""
NEWEST = 14


class ActiveShoppers:
    """The most active shoppers as buttons."""

    def __init__(self, pick: Callable[[str], None]) -> None:
        self._users: list[str] = []
        with ui.element().classes("panel"):
            ui.label("Pick a shopper").classes("text-weight-medium")
            with ui.column().classes("w-full gap-0 pt-1"):
                self._lines = [self._line(place, pick) for place in range(ACTIVE)]

    def _line(self, place: int, pick: Callable[[str], None]) -> tuple[ui.row, ui.label, ui.label]:
        # Rows stay and only texts change: a row that is rebuilt every second is hard to click.
        with ui.row().classes("w-full justify-between row-line py-1 px-1 cursor-pointer") as row:
            name = ui.label().classes("ellipsis").mark("pick")
            fact = ui.label().classes("muted")
        row.on("click", lambda: pick(self._users[place]))
        row.visible = False
        return row, name, fact

    def show(self, shoppers: dict[str, Shopper], picked: str | None) -> None:
        """Update the panel."""
        active = sorted(shoppers.items(), key=lambda pair: (-pair[1].clicks, pair[0]))[:ACTIVE]
        self._users = [user_id for user_id, _ in active]
        for (row, name, fact), (user_id, shopper) in zip(self._lines, active, strict=False):
            row.visible = True
            row.classes(
                add="highlight" if user_id == picked else "",
                remove="highlight" if user_id != picked else "",
            )
            name.text = user_id
            fact.text = f"{shopper.clicks} clicks, {shopper.hits} of {shopper.judged} predicted"


class NewestClicks:
    """The newest clicks."""

    def __init__(self) -> None:
        with ui.element().classes("panel"):
            ui.label("The stream").classes("text-weight-medium")
            with ui.column().classes("w-full gap-0 pt-1"):
                self._lines = [
                    ui.label().classes("ellipsis w-full row-line py-1") for _ in range(NEWEST)
                ]

    def show(self, newest: list[AnsweredClick]) -> None:
        """Update the panel; newest: the newest clicks, oldest first."""
        for line, seen in zip(self._lines, reversed(newest), strict=False):
            hit = seen.rank is not None
            line.text = f"{seen.user_id} → {seen.item_id}" + (f"  ✓ no. {seen.rank}" if hit else "")
            line.classes(add="text-positive" if hit else "muted", remove="muted text-positive")
