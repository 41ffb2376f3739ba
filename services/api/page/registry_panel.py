"""The registry panel: versions, and buttons to promote one and to roll back."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import run, ui

from nextclick.services.api.app import Components
from nextclick.services.api.messages import ModelsResponse, ModelSummary
from nextclick.services.api.models import registry_summary
from nextclick.shared.errors import NextclickError

MAX_VERSIONS = 6


class RegistryPanel:
    """Lists the newest versions; asks for confirmation before it moves the pointer."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._last_summary: ModelsResponse | None = None
        with ui.element().classes("panel"):
            with ui.row().classes("w-full items-center justify-between"):
                ui.label("Models").classes("text-weight-medium")
                self._back = ui.button("Roll back", icon="undo", on_click=self._roll_back)
                self._back.props("flat dense no-caps")
            self._body = ui.column().classes("w-full gap-0")

    async def refresh(self) -> None:
        """Read the registry and redraw the panel if it has changed."""
        try:
            found = await run.io_bound(
                registry_summary, self._components.registry, self._components.slot
            )
        except NextclickError:
            return  # keep the last state
        if found is None or found == self._last_summary:
            return
        self._last_summary = found
        self._body.clear()
        with self._body:
            if not found.versions:
                ui.label("no version yet").classes("muted")
            for version in found.versions[:MAX_VERSIONS]:
                self._row(version, found)
            more = len(found.versions) - MAX_VERSIONS
            if more > 0:
                ui.label(f"and {more} older").classes("muted")

    def _row(self, version: ModelSummary, found: ModelsResponse) -> None:
        hits = version.metrics.get("test_hr@10")
        facts = [f"HR@10 {hits:.4f}"] if hits is not None else []
        facts += [f"{version.clicks:,} clicks"] if version.clicks else []
        with ui.row().classes("w-full items-center justify-between row-line no-wrap py-1"):
            with ui.column().classes("gap-0"):
                ui.label(version.version).classes("mono")
                ui.label(" · ".join(facts) or "cannot be read").classes("muted")
            if version.version == found.current:
                serves = version.version == found.serving
                ui.badge("serves" if serves else "current", color="positive" if serves else "grey")
            elif version.created_at is not None:
                ui.button("Promote", on_click=lambda v=version.version: self._promote(v)).props(
                    "flat dense no-caps"
                )

    async def _promote(self, version: str) -> None:
        await self._move(
            f"Let {version} serve?", lambda: self._components.registry.promote(version), "Promote"
        )

    async def _roll_back(self) -> None:
        pointer = self._last_summary.current if self._last_summary else None
        await self._move(
            f"Go back from {pointer} to the version before it?",
            lambda: self._components.registry.rollback(only_if=pointer),
            "Roll back",
        )

    async def _move(self, question: str, action: Callable[[], object], verb: str) -> None:
        with ui.dialog() as dialog, ui.card():
            ui.label(question)
            ui.label("Workers follow within a second.").classes("muted")
            with ui.row().classes("w-full justify-end"):
                ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat no-caps")
                ui.button(verb, on_click=lambda: dialog.submit(True)).props("no-caps").mark("yes")
        confirmed = await dialog
        dialog.delete()
        if not confirmed:
            return
        try:
            await run.io_bound(action)
        except NextclickError as error:
            ui.notify(str(error), type="negative")
        else:
            ui.notify("done", type="positive")
        await self.refresh()
