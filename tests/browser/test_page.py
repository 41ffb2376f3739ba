"""The live page in a real browser, on a real stream."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Click
from tests.conftest import Launch
from tests.integration.traffic import Answers, Shop, publish_model
from tests.waiting import until

TIMEOUT_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
    if path is None:
        pytest.skip("no Chromium here: Debian's package is called chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def versions(tmp_path: Path) -> list[str]:
    return [publish_model(tmp_path / "registry", seed) for seed in (1, 2)]


@pytest.fixture
def address(
    launch: Launch, versions: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> str:
    launch("api", **{f"{PREFIX}API__PORT": "0", **getattr(request, "param", {})})
    log = tmp_path / "api-0.log"
    until(lambda: "listening on" in log.read_text(), "it listens")
    found = re.search(r"listening on (http://[^\s\"]+)", log.read_text())
    assert found is not None
    return found[1]


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page that has shown no error, and asked nobody but our process, by the end of the test."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    opened = context.new_page()
    opened.set_default_timeout(TIMEOUT_MS)
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def watch(asked: Request) -> None:
        if not asked.url.startswith((address, address.replace("http", "ws"), "data:", "blob:")):
            complaints.append(f"asked {asked.url}")

    opened.on("console", note)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", watch)
    opened.goto(address)
    yield opened
    context.close()
    assert complaints == []


def clicks(user: str, items: list[str], first: int) -> list[Click]:
    return [
        Click(event_id=f"{user}-{first + i}", user_id=user, item_id=item, timestamp=1000 + i)
        for i, item in enumerate(items)
    ]


def test_the_stream_is_seen_a_shopper_picked_and_a_model_rolled_back(
    launch: Launch,
    page: Page,
    versions: list[str],
    kafka: KafkaSettings,
    answers: Answers,
    tmp_path: Path,
) -> None:
    launch("worker")
    shop = Shop(kafka)
    figures = page.get_by_text("clicks/s").first.locator("xpath=..")
    expect(figures).to_contain_text("0", timeout=TIMEOUT_MS)  # the stream is followed now
    shop.send(clicks("busy", ["1", "2", "3", "4"], 0) + clicks("calm", ["9"], 0))
    expect(page.get_by_text("Shopper busy")).to_be_visible(timeout=TIMEOUT_MS)
    expect(page.get_by_text("4 clicks, ")).to_be_visible()

    page.get_by_text("calm", exact=True).click()
    expect(page.get_by_text("Shopper calm")).to_be_visible()
    expect(page.locator(".chip.newest")).to_have_text("9")
    listed = page.locator(".highlight, .row-line").filter(has=page.locator(".mono"))
    seen = answers.wait_for({"calm-0"})
    best = next(answer for answer in seen if answer.event_id == "calm-0").items[0].item_id
    expect(listed.filter(has_text=best).first).to_be_visible()

    shop.send(clicks("calm", [best], 1))  # it is predicted, and the page says so
    expect(page.get_by_text(f"calm → {best}  ✓ no. 1")).to_be_visible()
    expect(page.get_by_text("1 of 1 predicted; the last one was no. 1")).to_be_visible()

    page.get_by_role("button", name="Roll back").click()
    expect(page.get_by_text(f"Go back from {versions[1]}")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    registry = Registry(str(tmp_path / "registry"))
    pointer = registry.pointer()
    assert pointer is not None
    assert pointer.version == versions[1]
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.get_by_text(f"model {versions[0]}")).to_be_visible()
    pointer = registry.pointer()
    assert pointer is not None
    assert pointer.version == versions[0]


def test_the_documentation_asks_no_other_host(page: Page, address: str) -> None:
    page.goto(f"{address}/docs")
    expect(page.get_by_text("Recommend For User").first).to_be_visible()
