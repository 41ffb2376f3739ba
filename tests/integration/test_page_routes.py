"""The routes of the page: who gets data, with what headers, and what is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nextclick.services.api.access import Access, Keys
from nextclick.services.api.app import create_app
from nextclick.services.api.components import Components
from nextclick.services.api.main import open_components
from nextclick.services.api.page import routes
from nextclick.services.api.page.feed import Feed
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings, Settings
from tests.integration.traffic import publish_model, recommended

KEY = "open sesame"
DATA = {
    ("GET", "/page/events"): None,
    ("GET", "/page/items"): None,
    ("GET", "/page/shopper?user_id=u"): None,
    ("POST", "/page/list"): {"history": []},
    ("POST", "/page/clicks"): {"user_id": "u", "item_id": "1"},
    ("POST", "/page/model"): {"action": "rollback", "version": "v"},
}
JSON = {"Content-Type": "application/json"}
OTHER_SITE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}


@pytest.fixture
def settings(environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "catalogue.csv").write_text("item_id,category,title\n7,food,Puppy Food\n")
    environ[f"{PREFIX}API__CATALOGUE"] = str(tmp_path / "catalogue.csv")
    for key, value in environ.items():
        if key.startswith(PREFIX):
            monkeypatch.setenv(key, value)
    return Settings.from_environment()


@pytest.fixture
def versions(settings: Settings) -> list[str]:
    return [publish_model(Path(settings.registry.url), seed) for seed in (1, 2)]


@pytest.fixture
def components(
    settings: Settings, kafka: KafkaSettings, versions: list[str]
) -> Iterator[Components]:
    with open_components(settings) as made:
        assert made.slot.wait(30)
        yield made


@pytest.fixture
def feed(settings: Settings) -> Iterator[Feed]:
    feed = Feed(settings.kafka, settings.worker.group_id, {})
    yield feed
    feed.stop()


@pytest.fixture
def app(components: Components, settings: Settings, feed: Feed) -> Iterator[FastAPI]:
    access = Access(Keys(KEY))
    app = create_app(components, settings.api, 10, access)
    page = routes.install(app, components, feed, access)
    yield app
    page.stop()


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


def refused(answer: httpx.Response, status: int) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    ), answer.text


def post(client: TestClient, path: str, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


def test_nothing_with_data_is_told_without_the_key_and_nothing_to_other_sites(
    client: TestClient,
) -> None:
    for (method, path), body in DATA.items():
        refused(client.request(method, path, json=body), 401)
        refused(client.request(method, path, json=body, headers={"X-API-Key": "open"}), 401)
        key = {"X-API-Key": KEY}
        refused(client.request(method, path, json=body, headers=key | OTHER_SITE), 403)
        if body is not None:
            text = {**key, "Content-Type": "text/plain"}  # what a form of another site can send
            refused(client.request(method, path, content='{"history": []}', headers=text), 415)
            refused(client.request(method, path, json={"x": 1}, headers=key), 422)
    refused(client.post("/page/session", json={"key": KEY}, headers=OTHER_SITE), 403)
    refused(client.post("/page/session", content=b'{"key": "\\ud800"}', headers=JSON), 422)
    for path in ("/page/static/nothing.js", "/page/static/%2e%2e/routes.py"):
        refused(client.get(path), 404)
    for path in ("/", "/page/static/main.js", "/page/session"):
        answer = client.get(path)
        assert answer.is_success
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/", headers=OTHER_SITE | {"Sec-Fetch-Mode": "navigate"}).is_success  # a link


def test_keys_cannot_be_guessed_where_the_page_asks_whether_it_is_signed_in(
    client: TestClient,
) -> None:
    state = {"needs_key": True, "signed_in": False}
    assert client.get("/page/session").json() == state
    for header in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
        assert client.get("/page/session", headers=header).json() == state | {"signed_in": True}
    for _ in range(10):
        refused(client.get("/page/session", headers={"X-API-Key": "guess"}), 401)
    refused(client.get("/page/session", headers={"X-API-Key": KEY}), 429)


def test_a_busy_stream_holds_up_who_asks_for_a_shopper_and_nobody_else(
    app: FastAPI, feed: Feed
) -> None:
    others_were_answered, is_busy = threading.Event(), threading.Event()

    def follow() -> None:
        with feed.lock:  # as while answers are added
            is_busy.set()
            others_were_answered.wait(5)

    async def run() -> None:
        transport = httpx.ASGITransport(app)
        headers = {"X-API-Key": KEY}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            shopper = asyncio.create_task(client.get("/page/shopper?user_id=u"))
            assert (await client.get("/page/session")).is_success
            assert (await client.get("/healthz")).is_success
            assert feed.lock.locked(), "they were not held up"
            others_were_answered.set()
            assert (await shopper).is_success

    thread = threading.Thread(target=follow)
    thread.start()
    assert is_busy.wait(10)
    try:
        asyncio.run(asyncio.wait_for(run(), 30))
    finally:
        others_were_answered.set()
        thread.join()


def test_the_shell_names_no_other_host_and_holds_no_script(client: TestClient) -> None:
    shell = client.get("/").text
    assert "http:" not in shell
    assert "https:" not in shell
    assert "style=" not in shell
    assert shell.count("<script") == shell.count("></script>") == 2


def test_lists_by_both_models_with_reasons_and_titles(
    client: TestClient, settings: Settings, versions: list[str]
) -> None:
    assert client.post("/page/session", json={"key": KEY}).status_code == 204
    registry = Path(settings.registry.url)
    for before, version in ((False, versions[1]), (True, versions[0])):
        answer = post(client, "/page/list", history=["7", "nobody knows it", "9"], before=before)
        (ranking,) = recommended(registry, version, [["7", "nobody knows it", "9"]])
        assert answer["version"] == version
        assert [item["id"] for item in answer["items"]] == [i.item_id for i in ranking.items]
        assert all(item["why"][1] == 0 for item in answer["items"])  # an unknown click
        assert answer["titles"]["7"] == "Puppy Food"
    found = client.get("/page/items", params={"q": "FOOD"}).json()
    assert (found["items"], found["titles"]) == (["7"], {"7": "Puppy Food"})
    assert client.get("/page/items", params={"q": "1"}).json()["items"][0] == "1"  # most clicked
    assert client.get("/page/items", params={"q": "no such"}).json()["items"] == []

    refused(client.post("/page/model", json={"action": "promote", "version": "../x"}), 503)
    moved = client.post("/page/model", json={"action": "rollback", "version": versions[1]})
    assert moved.status_code == 204
    assert client.delete("/page/session").status_code == 204
    refused(client.post("/page/list", json={"history": []}), 401)
