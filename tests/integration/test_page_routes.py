"""The routes of the page: who gets data, with what headers, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient

from nextclick.services.api.access import Access, Keys
from nextclick.services.api.app import Components, create_app
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
def client(components: Components, settings: Settings) -> Iterator[TestClient]:
    access = Access(Keys(KEY))
    app = create_app(components, settings.api, 10, access)
    feed = Feed(settings.kafka, settings.worker.group_id, {})
    page = routes.install(app, components, feed, access)
    yield TestClient(app, raise_server_exceptions=False)
    feed.stop()
    page.stop()


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
