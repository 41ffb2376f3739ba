"""The page, composed of panels; one instance per browser tab."""

from __future__ import annotations

from fastapi import FastAPI
from nicegui import ui

from nextclick.services.api.app import Components
from nextclick.services.api.page import charts
from nextclick.services.api.page.activity_panels import ActiveShoppers, NewestClicks
from nextclick.services.api.page.feed import Feed
from nextclick.services.api.page.registry_panel import RegistryPanel
from nextclick.services.api.page.shopper_panel import ShopperPanel
from nextclick.services.api.page.stream import HIT_RATE_SECONDS, Stream

_STYLE = """
  body { font-family: Inter, system-ui, "Segoe UI", Roboto, sans-serif; }
  .body--light { background: #f5f6f8; color: #1c2024; }
  .body--dark { background: #101214; color: #e6e8eb; }
  .panel { border-radius: 12px; padding: 14px 16px; width: 100%; }
  .body--light .panel { background: #fff; border: 1px solid #e4e7eb; }
  .body--dark .panel { background: #181b1f; border: 1px solid #2a2e34; }
  .muted { color: #7d8694; font-size: 12px; }
  .figure { font-size: 24px; font-weight: 600; line-height: 1.2;
            font-variant-numeric: tabular-nums; }
  .chip { border-radius: 8px; padding: 3px 9px; font-size: 13px; white-space: nowrap;
          background: rgba(79, 124, 255, 0.13); }
  .chip.newest { background: #4f7cff; color: #fff; }
  .row-line { border-top: 1px solid rgba(128, 128, 128, 0.16); }
  .highlight { background: rgba(34, 160, 107, 0.22); border-radius: 8px; }
  .mono { font-family: ui-monospace, "Roboto Mono", Menlo, monospace; font-size: 12px; }
  .nicegui-content { padding: 0; }
"""

TILES = ("clicks/s", "answers/s", "p50 ms", "p90 ms", "p99 ms", "lag", "HR@10", "dead letters")


def install(app: FastAPI, components: Components, feed: Feed) -> None:
    """Serve the page at / of an application, which must have no route there."""

    @ui.page("/", title="nextclick")
    def page() -> None:
        ui.add_css(_STYLE)
        _Page(components, feed)

    ui.run_with(app, show_welcome_message=False, reconnect_timeout=10)


class _Page:
    """One visitor's page."""

    def __init__(self, components: Components, feed: Feed) -> None:
        self._components = components
        self._feed = feed
        self._dark = ui.dark_mode(None)
        with ui.column().classes("w-full mx-auto gap-3 p-3").style("max-width: 1400px"):
            self._header()
            self._tiles = self._figures()
            self._charts()
            with ui.grid().classes("w-full grid-cols-1 lg:grid-cols-3 gap-3 items-start"):
                with ui.column().classes("lg:col-span-2 w-full gap-3"):
                    self._shopper = ShopperPanel(components)
                    self._active = ActiveShoppers(self._shopper.pick)
                with ui.column().classes("w-full gap-3"):
                    self._registry = RegistryPanel(components)
                    self._dead = _DeadLetters()
                    self._newest = NewestClicks()
        self._shown_point = 0.0
        ui.timer(0.5, self._refresh)
        ui.timer(2.0, self._registry.refresh)

    def _header(self) -> None:
        with ui.row().classes("w-full items-center justify-between"):
            with ui.row().classes("items-baseline gap-3"):
                ui.label("nextclick").classes("text-h6 text-weight-bold")
                self._model = ui.label().classes("mono muted")
            with ui.row().classes("items-center gap-2"):
                ui.link("HTTP interface", "/docs").classes("muted")
                ui.button(icon="contrast", on_click=self._toggle).props(
                    'flat round dense aria-label="dark or light"'
                )
        self._error = ui.label().classes("text-negative")

    def _toggle(self) -> None:
        self._dark.value = not self._dark.value

    def _figures(self) -> dict[str, ui.label]:
        figures = {}
        with ui.grid().classes("w-full grid-cols-2 sm:grid-cols-4 lg:grid-cols-8 gap-3"):
            for name in TILES:
                with ui.element().classes("panel"):
                    ui.label(name).classes("muted")
                    figures[name] = ui.label("–").classes("figure").mark(name)
        return figures

    def _charts(self) -> None:
        with ui.grid().classes("w-full grid-cols-1 lg:grid-cols-4 gap-3"):
            with ui.element().classes("panel lg:col-span-4"):
                title = f"Was the next click among the ten? HR@10 of the last {HIT_RATE_SECONDS} s"
                ui.label(title).classes("text-weight-medium")
                self._hits = ui.echart({"series": []}).style("height: 240px")
                self._marks = ui.label().classes("muted")
            self._throughput = _chart("Throughput")
            self._latency = _chart("Click to answer, ms", "lg:col-span-2")
            self._lag = _chart("Lag")

    async def _refresh(self) -> None:
        stream = self._feed.watch()
        self._error.text = self._feed.error
        model = self._components.slot.model
        self._model.text = f"model {model.version}" if model else "no model yet"
        with self._feed.lock:
            if stream.points and stream.points[-1].time_ms != self._shown_point:
                self._shown_point = stream.points[-1].time_ms
                self._draw(stream)
            self._dead.show(dict(stream.dead_letters))
            view = self._shopper.view_of(stream)
            self._active.show(stream.shoppers, self._shopper.picked)
            self._newest.show(list(stream.newest))
        await self._shopper.show(view)

    def _draw(self, stream: Stream) -> None:
        points, marks = list(stream.points), list(stream.marks)
        newest = points[-1]
        p50, p90, p99 = newest.latency_ms or (None, None, None)
        figures = {
            "clicks/s": _figure(newest.clicks_per_second),
            "answers/s": _figure(newest.answers_per_second),
            "p50 ms": _figure(p50),
            "p90 ms": _figure(p90),
            "p99 ms": _figure(p99),
            "lag": _figure(newest.lag),
            "HR@10": f"{newest.hit_rates['model']:.3f}" if newest.hit_rates else "–",
            "dead letters": _figure(stream.dead_letters.total()),
        }
        for name, text in figures.items():
            self._tiles[name].text = text
        for chart, options in (
            (self._hits, charts.hit_rates(points, marks)),
            (self._throughput, charts.throughput(points)),
            (self._latency, charts.latency(points)),
            (self._lag, charts.lag(points)),
        ):
            chart.options.clear()
            chart.options.update(options)
            chart.update()
        self._marks.text = f"last: {marks[-1].text}" if marks else ""


class _DeadLetters:
    """The panel of dead letters, by reason."""

    def __init__(self) -> None:
        self._shown: dict[str, int] | None = None
        with ui.element().classes("panel"):
            ui.label("Dead letters, since this page follows the stream").classes(
                "text-weight-medium"
            )
            self._body = ui.column().classes("w-full gap-1")

    def show(self, dead: dict[str, int]) -> None:
        """Update the panel."""
        if dead == self._shown:
            return
        self._shown = dead
        self._body.clear()
        with self._body:
            if not dead:
                ui.label("none").classes("muted")
            for reason, count in sorted(dead.items()):
                with ui.row().classes("w-full justify-between"):
                    ui.label(reason)
                    ui.label(f"{count:,}")


def _chart(title: str, wide: str = "") -> ui.echart:
    with ui.element().classes(f"panel {wide}"):
        ui.label(title).classes("text-weight-medium")
        return ui.echart({"series": []}).style("height: 180px")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
