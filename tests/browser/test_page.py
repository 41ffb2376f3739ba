"""The live page in a real browser, on a real stream."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.schemas import Click
from tests.conftest import Launch
from tests.faults.children import Child
from tests.integration.traffic import Answers, Shop, publish_model, recommended
from tests.waiting import until

TIMEOUT_MS = 30_000
PHONE = {"width": 360, "height": 800}
CATALOGUE = "item_id,category,title\n7,food,Puppy Food\n8,food,Food Bowl\n"


@dataclass
class Visit:
    """One visitor's page; what it complained about is kept."""

    page: Page
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
    if path is None:
        pytest.skip("no Chromium here: Debian's package is called chromium")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def versions(tmp_path: Path) -> list[str]:
    return [publish_model(tmp_path / "registry", seed) for seed in (1, 2)]


@pytest.fixture
def api(
    launch: Launch, versions: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> Child:
    (tmp_path / "catalogue.csv").write_text(CATALOGUE)
    settings = {
        f"{PREFIX}API__PORT": "0",
        f"{PREFIX}API__CATALOGUE": str(tmp_path / "catalogue.csv"),
    }
    return launch("api", **settings, **getattr(request, "param", {}))


@pytest.fixture
def address(api: Child, tmp_path: Path) -> str:
    log = tmp_path / "api-0.log"
    until(lambda: "listening on" in log.read_text(), "it listens")
    found = re.search(r"listening on (http://[^\s\"]+)", log.read_text())
    assert found is not None
    return found[1]


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport=PHONE, color_scheme="dark", reduced_motion="reduce")
    yield context
    context.close()


@pytest.fixture
def visit(context: BrowserContext, address: str) -> Visit:
    """A page that notes all errors, breaches of its policy, and requests to anybody else."""
    visit = Visit(context.new_page())
    page, complaints = visit.page, visit.complaints
    page.set_default_timeout(TIMEOUT_MS)

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):  # breaches of the policy are errors
            complaints.append(message.text)

    def watch(asked: Request) -> None:
        if not asked.url.startswith((address, "data:", "blob:")):
            complaints.append(f"asked {asked.url}")

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", watch)
    page.goto(address)
    return visit


def clicks(user: str, items: list[str], first: int) -> list[Click]:
    return [
        Click(event_id=f"{user}-{first + i}", user_id=user, item_id=item, timestamp=1000 + i)
        for i, item in enumerate(items)
    ]


def best(registry: Path, version: str, history: list[str]) -> list[str]:
    (ranking,) = recommended(registry, version, [history])
    return [item.item_id for item in ranking.items]


def test_be_the_shopper_watch_one_and_go_back_to_the_model_before(
    launch: Launch,
    visit: Visit,
    versions: list[str],
    kafka: KafkaSettings,
    answers: Answers,
    tmp_path: Path,
) -> None:
    launch("worker")
    page, registry = visit.page, tmp_path / "registry"
    names = {"7": "Puppy Food", "8": "Food Bowl"}

    # With the keyboard alone: an item by its title, then the first one that is recommended.
    expect(page.locator("#list-version")).to_have_text(versions[1])
    while not page.evaluate("document.activeElement.id === 'search'"):
        page.keyboard.press("Tab")
    page.keyboard.type("puppy")
    expect(page.get_by_role("option", name="Puppy Food")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    listed = best(registry, versions[1], ["7"])
    picks = page.locator("#list .name")
    first = names.get(listed[0], listed[0])
    expect(picks.first).to_have_text(re.compile(rf"^{first}(because|these)"))
    while not page.evaluate("document.activeElement.className === 'pick'"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#history li")).to_have_text(["Puppy Food", first])
    expect(page.locator("#shopper-news")).to_have_text(
        re.compile(rf"You clicked {first}\. List in")
    )
    expect(page.locator("#before-version")).to_have_text(versions[0])
    before = best(registry, versions[0], ["7", listed[0]])
    expect(page.locator("#before .name")).to_have_text([names.get(i, i) for i in before])
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]

    # A click of one's own goes through Kafka and the worker, and one sees it there.
    page.get_by_label("User id of my clicks").fill("me")
    page.get_by_label("send my clicks").check()
    with page.expect_response("**/page/clicks") as accepted:
        page.locator("#list .pick").first.click()
    event_id = accepted.value.json()["event_id"]
    (own,) = [a for a in answers.wait_for({event_id}) if a.event_id == event_id]
    expect(page.locator("#live-news")).to_have_text(re.compile("^me: "))
    expect(page.locator("#live-history li")).to_have_text([names.get(i, i) for i in own.history])
    predicted = own.items[0].item_id
    Shop(kafka).send(clicks("me", [predicted], 1))
    expect(page.locator("#live-news")).to_have_text(
        "me: 1 of 1 clicks were among the ten; the last one was no. 1 of the list before"
    )
    expect(page.locator("#hit-rate")).to_have_text(re.compile("^100 %"))

    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    pointer = Registry(str(registry)).pointer()
    assert pointer is not None
    assert pointer.version == versions[1]
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.locator("#model")).to_have_text(f"model {versions[0]}")
    expect(page.locator("#timeline")).to_contain_text(f"Rolled back from {versions[1]}")
    expect(page.locator("#timeline .taken_back")).to_contain_text(versions[1])
    assert visit.complaints == []


@pytest.mark.long
def test_a_page_without_its_server_says_so_and_comes_back(
    visit: Visit, api: Child, address: str, launch: Launch, tmp_path: Path
) -> None:
    page = visit.page
    connection = page.locator("#connection")
    expect(connection).to_have_attribute("data-state", "live")
    expect(page.get_by_text("No click has been answered since this page is open")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 17, 19)"
    page.get_by_role("button", name="Light").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
    assert visit.complaints == []

    os.kill(api.pid, signal.SIGTERM)
    assert api.wait(30) == 0  # it does not wait for an open page
    expect(connection).to_have_attribute("data-state", "disconnected")
    launch("api", **{f"{PREFIX}API__PORT": address.rpartition(":")[2]})
    expect(connection).to_have_attribute("data-state", "live")
    page.reload()  # the theme is remembered
    expect(page.get_by_role("button", name="Dark")).to_be_visible()


@pytest.mark.parametrize("api", [{f"{PREFIX}API__KEY": "open sesame"}], indirect=True)
def test_with_a_key_the_page_asks_for_it_and_forgets_it_on_request(
    visit: Visit, context: BrowserContext, address: str
) -> None:
    page = visit.page
    field = page.get_by_label("API key")
    field.fill("sesame")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_text("the key is wrong")).to_be_visible()
    for path in ("events", "items?q=", "shopper?user_id=u"):
        assert context.request.get(f"{address}/page/{path}").status == 401
    field.fill("open sesame")
    field.press("Enter")
    expect(page.get_by_text("clicks per second").first).to_be_visible()
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    (cookie,) = context.cookies(f"{address}/page/")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.reload()
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    page.goto(f"{address}/docs")
    expect(page.get_by_text("Recommend For User").first).to_be_visible()
    page.goto(address)
    page.get_by_role("button", name="Sign out").click()
    expect(field).to_be_visible()
    assert context.request.get(f"{address}/docs").status == 401
    assert len(visit.complaints) == 1  # Chromium notes the 401
    assert "401" in visit.complaints[0]
