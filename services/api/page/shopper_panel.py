"""The panel of one shopper: session, recommendations with contributions, and the next click."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nicegui import run, ui

from nextclick.services.api.app import Components
from nextclick.services.api.page.stream import Stream
from nextclick.shared.errors import NextclickError
from nextclick.shared.model import Explanation
from nextclick.shared.model.explain import explain
from nextclick.shared.schemas import ScoredItem
from nextclick.shared.stream_metrics import K

_HIGHLIGHT_SECONDS = 0.9


@dataclass(frozen=True)
class _View:
    """The content of the panel."""

    user_id: str
    event_id: str
    """Id of the answered click; empty for a session that was read from Redis."""
    history: list[str]
    items: list[ScoredItem]
    note: str
    hit: str | None
    """The newest clicked item, if it was in the list before."""


class ShopperPanel:
    """Shows the picked shopper; the most active one until a shopper is picked."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self.picked: str | None = None
        self._last_view: _View | None = None
        self._rows: dict[str, ui.element] = {}
        with ui.element().classes("panel"):
            with ui.row().classes("w-full items-center justify-between"):
                self._title = ui.label("Shopper").classes("text-weight-medium").mark("shopper")
                find = ui.input(placeholder="another user id").props("dense outlined")
                find.on("keydown.enter", lambda: self.pick(find.value))
            self._note = ui.label("waiting for clicks …").classes("muted")
            self._history = ui.row().classes("w-full gap-1 py-2")
            self._list = ui.column().classes("w-full gap-0")

    def pick(self, user_id: str) -> None:
        """Show this shopper from now on."""
        self.picked = user_id or None

    def view_of(self, stream: Stream) -> _View | None:
        """The content for the shopper, from the stream. The caller holds the feed's lock."""
        if self.picked is None and stream.shoppers:
            self.picked = max(stream.shoppers, key=lambda user: stream.shoppers[user].clicks)
        shopper = stream.shoppers.get(self.picked or "")
        if self.picked is None or shopper is None:
            return None
        answer, last = shopper.answer, shopper.last
        note = f"{shopper.clicks} clicks seen, {shopper.hits} of {shopper.judged} predicted"
        if last.rank:
            note += f"; the last one was no. {last.rank} of the list before"
        hit = last.item_id if last.rank else None
        return _View(self.picked, answer.event_id, answer.history, answer.items[:K], note, hit)

    async def show(self, view: _View | None) -> None:
        """Update the panel."""
        before = self._last_view
        if view is None and self.picked and (before is None or before.user_id != self.picked):
            view = await run.io_bound(self._stored, self.picked)
        if view is None or view == before:
            return
        self._last_view = view
        if before is not None and before.user_id == view.user_id and view.hit in self._rows:
            self._rows[view.hit].classes("highlight")  # for _HIGHLIGHT_SECONDS, in the old list
            self._note.text = f"clicked {view.hit}"
            ui.timer(_HIGHLIGHT_SECONDS, lambda: self._draw(view), once=True)
        else:
            await self._draw(view)

    def _stored(self, user_id: str) -> _View:
        """The content for a shopper without clicks in the stream, from Redis."""
        history, items = [], []
        note = "not in the stream at the moment; this is what Redis holds"
        try:
            history = self._components.sessions.read([user_id])[0].history
            model = self._components.slot.model
            if model is not None:
                items = model.scorer.recommend([history])[0].items[:K]
        except NextclickError as error:
            note = str(error)
        return _View(user_id, "", history, items, note, None)

    async def _draw(self, view: _View) -> None:
        explanation = await run.io_bound(self._explained, view.history)
        if view is not self._last_view:
            return  # a newer click has replaced this view
        self._title.text = f"Shopper {view.user_id}"
        self._note.text = view.note
        self._history.clear()
        with self._history:
            for i, clicked in enumerate(view.history):
                newest = " newest" if i == len(view.history) - 1 else ""
                ui.label(clicked).classes("chip" + newest)
        self._list.clear()
        self._rows = {}
        contributions_of: dict[str, list[float]] = {}
        if explanation is not None:
            names = [explained.item_id for explained in explanation.items]
            contributions_of = dict(zip(names, explanation.contributions, strict=True))
        with self._list:
            for rank, item in enumerate(view.items, start=1):
                contributions = contributions_of.get(item.item_id, [])
                self._rows[item.item_id] = _row(rank, item, view.history, contributions)

    def _explained(self, history: list[str]) -> Explanation | None:
        model = self._components.slot.model
        return explain(model.scorer, history) if model is not None else None


def _row(rank: int, item: ScoredItem, history: list[str], contributions: list[float]) -> ui.element:
    """Draw one recommended item: rank, name, contribution of each click, score."""
    with ui.row().classes("w-full items-center no-wrap gap-2 row-line py-1 px-1") as row:
        ui.label(str(rank)).classes("muted").style("width: 20px")
        ui.label(item.item_id).classes("ellipsis").style("flex: 1 1 40%")
        with ui.row().classes("no-wrap gap-px").style("flex: 0 0 auto"):
            for clicked, nats in zip(history, contributions, strict=False):
                times = f"{clicked}: {math.exp(nats):.2g} times as likely"
                ui.element().style(f"width: 11px; height: 18px; {_shade(nats)}").tooltip(times)
        with ui.element().style("flex: 0 0 70px").classes("max-sm:hidden"):
            ui.linear_progress(item.score, show_value=False, size="6px")
        ui.label(f"{item.score:.3f}").classes("mono").style("width: 44px; text-align: right")
    return row


def _shade(nats: float) -> str:
    """CSS: green for a positive contribution, red for a negative one; stronger if it is larger."""
    colour = "34, 160, 107" if nats > 0 else "229, 72, 77"
    return f"border-radius: 2px; background: rgba({colour}, {min(1.0, 0.06 + abs(nats) / 3):.2f})"
