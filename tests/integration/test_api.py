"""The HTTP service on real servers: in this process, and as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import hypothesis
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from schemathesis.specs.openapi.checks import positive_data_acceptance

from nextclick.services.api.access import access
from nextclick.services.api.app import create_app
from nextclick.services.api.components import Components
from nextclick.services.api.main import open_components
from nextclick.shared import embedded
from nextclick.shared.kafka import ItemCatalogue, TopicReader, ensure_topics
from nextclick.shared.redis import session_store
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings, Settings
from nextclick.shared.schemas import Click, Recommendation
from tests.conftest import Launch
from tests.integration.traffic import ITEMS, publish_model
from tests.unit.builders import related_lists
from tests.waiting import until

CATALOGUE = "item_id,category\n1,odd\n3,odd\n5,odd\n99,odd\n2,even\n"
PROFILES = {
    "cheap": {"max_price": 5, "pins": [{"position": 2, "item_id": "7"}]},
    "spread": {"max_per_category": 1},
}


@pytest.fixture
def settings(
    environ: dict[str, str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    (tmp_path / "catalogue.csv").write_text(CATALOGUE)
    ours = {
        f"{PREFIX}API__CATALOGUE": str(tmp_path / "catalogue.csv"),
        f"{PREFIX}API__RULES_POLL_SECONDS": "0.05",
        f"{PREFIX}API__PORT": "0",
        f"{PREFIX}PROFILES": json.dumps(PROFILES),
    }
    environ.update(ours)  # of processes, too
    for key, value in environ.items():
        if key.startswith(PREFIX):
            monkeypatch.setenv(key, value)
    return Settings.from_environment()


@pytest.fixture
def components(
    settings: Settings, kafka: KafkaSettings, key_prefix: str, name: str
) -> Iterator[Components]:
    publish_model(Path(settings.registry.url), seed=1, related=related_lists(ITEMS))
    with open_components(settings) as made:
        assert made.slot.wait(30)
        assert made.items.wait(30)
        yield made


HERE = "http://127.0.0.1"


@pytest.fixture
def app(components: Components, settings: Settings) -> FastAPI:
    return create_app(
        components,
        settings.api,
        settings.worker.top_k,
        access(settings.api),
        profiles=settings.profiles,
    )


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app, HERE, raise_server_exceptions=False)


def clicked(settings: Settings, user: str, *items: str) -> None:
    sessions = session_store(settings)
    sessions.append(
        [
            Click(event_id=f"{user}-{i}", user_id=user, item_id=item, timestamp=1000 + i)
            for i, item in enumerate(items)
        ]
    )
    sessions.close()


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"]) == (status, status)
    return body


def test_a_user_gets_what_the_worker_would_answer(
    client: TestClient, components: Components, settings: Settings
) -> None:
    clicked(settings, "a/b ü", "1", "2", "3")
    model = components.slot.model
    assert model is not None
    (expected,) = model.scorer.recommend([["1", "2", "3"]])
    answer = client.get("/recommendations/a%2Fb%20%C3%BC")
    assert answer.json() == {
        "user_id": "a/b ü",
        "items": [{"item_id": i.item_id, "score": i.score} for i in expected.items],
        "model_version": model.version,
        "history": ["1", "2", "3"],
        "fallback": None,
        "profile": None,
        "shortened_by": None,
        "experiment": None,
        "exploration": None,
        "kept_out": None,
    }
    assert client.get("/users/a%2Fb%20%C3%BC/session").json() == {
        "user_id": "a/b ü",
        "history": ["1", "2", "3"],
        "last_click": 1002,
    }
    by_history = client.post("/recommendations", json={"history": [1, "2", "3"]})
    assert by_history.json() == {**answer.json(), "user_id": None}


def test_an_unknown_user_gets_the_popular_items_and_is_told(client: TestClient) -> None:
    answer = client.get("/recommendations/nobody?k=3")
    assert ids(answer) == ["1", "2", "3"]
    assert answer.json()["fallback"] == "cold_start"
    answer = client.post("/recommendations", json={"history": ["never seen"], "k": 2})
    assert (ids(answer), answer.json()["fallback"]) == (["1", "2"], "unknown_items")
    assert client.get("/users/nobody/session").json()["history"] == []


def test_rules_of_the_query(client: TestClient, settings: Settings) -> None:
    clicked(settings, "u", "1", "2", "3")
    assert set(ids(client.get("/recommendations/u?k=100"))) == {str(i) for i in range(1, ITEMS + 1)}
    unseen = ids(client.get("/recommendations/u?k=100&exclude_seen=true"))
    assert set(unseen) == {str(i) for i in range(4, ITEMS + 1)}
    assert set(ids(client.get("/recommendations/u?category=odd"))) == {"1", "3", "5"}
    both = {"history": ["1", "2"], "category": "odd", "exclude_seen": True}
    assert set(ids(client.post("/recommendations", json=both))) == {"3", "5"}
    assert ids(client.get("/recommendations/nobody?category=odd")) == ["1", "3", "5"]


def test_profiles_and_constraints_hold_for_a_list(client: TestClient, settings: Settings) -> None:
    said = [
        {"item_id": str(i), "price": i, "categories": ["small" if i < 10 else "large"]}
        for i in range(1, ITEMS)
    ]
    assert client.post("/items", json={"items": said}).status_code == 204
    clicked(settings, "u", "1", "2", "3")
    whole = ids(client.get("/recommendations/u?k=100"))
    cheap = [i for i in whole if int(i) <= 5]
    answer = client.get("/recommendations/u?profile=cheap")
    assert ids(answer) == cheap, "7 is pinned, and too dear"
    assert answer.json()["profile"] == f"cheap@{settings.profiles['cheap'].digest}"
    assert answer.json()["shortened_by"] == {"price": ITEMS - 5}
    same = client.get(
        "/recommendations/u?profile=cheap", headers={"If-None-Match": answer.headers["etag"]}
    )
    assert same.status_code == 304
    assert client.get("/recommendations/u").headers["etag"] != answer.headers["etag"]

    asked = {"history": ["1", "2", "3"], "k": 4}
    pinned = {"max_price": 8, "pins": [{"position": 1, "item_id": "7"}]}
    by_history = client.post("/recommendations", json={**asked, "constraints": pinned})
    assert ids(by_history) == ["7", *[i for i in whole if int(i) <= 8 and i != "7"][:3]]
    scores = {
        i["item_id"]: i["score"] for i in client.get("/recommendations/u?k=100").json()["items"]
    }
    assert all(
        i["score"] == pytest.approx(scores[i["item_id"]]) for i in by_history.json()["items"]
    )
    both = {**asked, "constraints": pinned, "profile": "cheap", "category": "large"}
    lists = client.post("/recommendations/batch", json={"requests": [{**both, "k": 3}, asked]})
    nothing, plain = lists.json()["lists"]
    assert nothing["items"] == []
    assert sum(nothing["shortened_by"].values()) == ITEMS
    assert [item["item_id"] for item in plain["items"]] == whole[:4]
    assert (plain["profile"], plain["shortened_by"]) == (None, None)

    spread = client.post(
        "/clicks?recommend=true&profile=spread", json={"user_id": "v", "item_id": "1"}
    )
    listed = [item["item_id"] for item in spread.json()["recommendations"]["items"]]
    assert sorted(int(i) < 10 for i in listed if i != str(ITEMS)) == [False, True]
    assert set(ids(client.get("/recommendations/nobody?category=large&k=3"))) == {"10", "11", "12"}


def test_a_denied_item_is_in_no_list_until_it_is_allowed(
    client: TestClient, settings: Settings
) -> None:
    clicked(settings, "u", "4")
    best = ids(client.get("/recommendations/u"))[0]
    assert client.put(f"/denied/{best}").status_code == 204
    assert client.get("/denied").json() == {"items": [best]}
    for path in ("/recommendations/u?k=100", "/recommendations/nobody?k=100"):
        assert best not in ids(client.get(path))
    assert client.delete(f"/denied/{best}").status_code == 204
    assert ids(client.get("/recommendations/u"))[0] == best


def test_a_changed_catalogue_counts_and_a_broken_one_does_not(
    client: TestClient, components: Components, tmp_path: Path
) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_text("item_id,category\n4,new and longer\n")
    until(lambda: client.get("/recommendations/u?category=new and longer").is_success, "it counts")
    path.write_text("item_id\n")
    components.rules.check()
    assert ids(client.get("/recommendations/u?category=new and longer")) == ["4"]


def test_several_lists_are_those_that_one_gets_one_by_one(
    client: TestClient, settings: Settings
) -> None:
    clicked(settings, "u", "1", "2")
    asked = [{"user_id": "u", "k": 3}, {"history": ["3"], "exclude_seen": True}, {"user_id": 9}]
    lists = client.post("/recommendations/batch", json={"requests": asked}).json()["lists"]
    one_by_one = [
        client.get("/recommendations/u?k=3"),
        client.post("/recommendations", json=asked[1]),
    ]
    for together, alone in zip(lists, one_by_one, strict=False):
        assert [item["item_id"] for item in together["items"]] == ids(alone)
        assert together["history"] == alone.json()["history"]
    assert (lists[2]["user_id"], lists[2]["fallback"]) == ("9", "cold_start")


def test_a_list_that_the_client_has_is_not_sent_again(
    client: TestClient, settings: Settings
) -> None:
    for path in ("/recommendations/u", "/models"):
        tag = client.get(path).headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            again = client.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert client.get(path, headers={"If-None-Match": '"other"'}).is_success
    tag = client.get("/recommendations/u").headers["etag"]
    clicked(settings, "u", "4")
    assert client.get("/recommendations/u", headers={"If-None-Match": tag}).is_success


def test_a_click_is_answered_as_the_worker_answers_it(
    launch: Launch, client: TestClient, settings: Settings, kafka: KafkaSettings, key_prefix: str
) -> None:
    """First without a worker, so that none of the clicks is in Redis; then it catches up."""
    clicked(settings, "u", "1", "2")
    now = int(time.time() * 1000)
    gap = int(settings.session.gap_seconds * 1000)
    sent: list[dict[str, Any]] = [
        {"item_id": "3", "timestamp": now},
        {"item_id": "4", "timestamp": now - 1000},
        {"item_id": "unheard-of"},
        {"item_id": "5", "event_type": "impression"},
        {"item_id": "6", "timestamp": 7},  # not believed
        {"item_id": "7", "timestamp": now + 10 * gap},  # nor this
        {"item_id": "8"},
        {"item_id": "3", "user_id": "v", "timestamp": now - 2 * gap},
        {"item_id": "4", "user_id": "v", "timestamp": now},
    ]
    sent = [{"user_id": "u", "event_id": f"e{i}", **click} for i, click in enumerate(sent)]
    answers = {}
    for click in [*sent, sent[1]]:
        answer = client.post("/clicks?recommend=true", json=click)
        assert answer.status_code == 202
        assert answer.json()["event_id"] == click["event_id"]
        first = answers.setdefault(click["event_id"], answer.json()["recommendations"])
        assert first == answer.json()["recommendations"], "sent again it is answered again"
    assert answers["e6"]["history"][-4:] == ["unheard-of", "6", "7", "8"]
    assert answers["e8"]["history"] == ["4"]

    ensure_topics(kafka, [kafka.recommendations_topic])
    launch("worker")
    reader = TopicReader(kafka, [kafka.recommendations_topic])
    of_worker: dict[str, Recommendation] = {}

    def all_answered() -> bool:
        for message in reader.poll():
            answer = Recommendation.model_validate_json(message.value or b"")
            of_worker.setdefault(answer.event_id, answer)
        return len(of_worker) == len(sent) - 1

    until(all_answered, "the worker's answers", 60)
    reader.close()
    assert of_worker.keys() == answers.keys() - {"e3"}, "an impression is no click"
    for event_id, answer in of_worker.items():
        own = answers[event_id]
        assert (own["history"], own["model_version"]) == (answer.history, answer.model_version)
        assert [i["item_id"] for i in own["items"]] == [i.item_id for i in answer.items]
    for click in sent[:3]:
        again = client.post("/clicks?recommend=true", json=click).json()["recommendations"]
        assert again == answers[click["event_id"]], "now from Redis, as it was the first time"
    ruled = client.post("/clicks?recommend=true&k=2&category=odd", json={**sent[0]})
    assert {i["item_id"] for i in ruled.json()["recommendations"]["items"]} <= {"1", "3", "5"}


def test_a_click_is_on_the_topic_when_it_is_accepted(
    client: TestClient, kafka: KafkaSettings
) -> None:
    ensure_topics(kafka, [kafka.clicks_topic])
    reader = TopicReader(kafka, [kafka.clicks_topic])
    sent = {"user_id": 7, "item_id": "ü", "event_id": "e1", "timestamp": 5, "more": 1}
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = client.post("/clicks", json=sent, headers={"Traceparent": parent, "X": "1"})
    assert (answer.status_code, answer.json()) == (202, {"event_id": "e1"})
    named = client.post("/clicks", json={"user_id": "7", "item_id": "8"})
    messages = reader.poll(10, timeout=10)
    while len(messages) < 2:
        messages += reader.poll(10, timeout=10)
    reader.close()
    first, second = (Click.model_validate_json(m.value or b"") for m in messages)
    assert first == Click(event_id="e1", user_id="7", item_id="ü", timestamp=5)
    assert second.event_id == named.json()["event_id"]
    assert {m.key for m in messages} == {b"7"}
    assert [m.headers for m in messages] == [(("traceparent", parent.encode()),), ()]


def test_explanations(client: TestClient, settings: Settings) -> None:
    clicked(settings, "u", "1", "2")
    answer = client.get("/explain?user_id=u").json()
    assert answer["history"] == ["1", "2"]
    assert [len(item["contributions"]) for item in answer["items"]] == [2] * 10
    assert client.get("/explain?history=1&history=2").json() == answer
    assert client.get("/explain").json()["history"] == []


def test_related_items_are_looked_up(client: TestClient, components: Components) -> None:
    model = components.slot.model
    assert model is not None
    answer = client.get("/items/1/similar?k=3")
    assert answer.json() == {
        "item_id": "1",
        "items": [
            {"item_id": "2", "score": 0.5},
            {"item_id": "3", "score": 0.333333},
            {"item_id": "4", "score": 0.25},
        ],
        "model_version": model.version,
        "profile": None,
    }
    same = client.get("/items/1/similar?k=3", headers={"If-None-Match": answer.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    assert len(ids(client.get("/items/1/similar"))) == 20
    bought = client.get("/items/50/bought-together")
    assert (ids(bought), bought.json()["basis"]) == (["1", "2", "3", "4", "5"], "clicks")
    assert client.get("/items/1/bought-together").json()["basis"] == "purchases"
    assert client.put("/denied/2").status_code == 204
    assert client.delete("/items/3").status_code == 204
    assert ids(client.get("/items/1/similar?k=3")) == ["4", "5", "6"]
    assert ids(client.get("/items/2/similar?k=2")) == ["4", "5"], "it is sold out; these are not"


def test_profiles_hold_for_related_items(client: TestClient, settings: Settings) -> None:
    said = [
        {"item_id": str(i), "price": i, "categories": ["even" if i % 2 == 0 else "odd"]}
        for i in range(1, ITEMS)
    ]
    assert client.post("/items", json={"items": said}).status_code == 204
    answer = client.get("/items/1/similar?profile=cheap")
    assert ids(answer) == ["2", "3", "4", "5"], "7 is pinned in other lists"
    assert answer.json()["profile"] == f"cheap@{settings.profiles['cheap'].digest}"
    assert ids(client.get("/items/1/similar?profile=spread")) == ["2", "3"]
    assert ids(client.get("/items/1/similar?category=odd&k=3")) == ["3", "5", "7"]


def test_a_model_from_before_has_no_related_items_and_says_so(
    client: TestClient, settings: Settings
) -> None:
    old = publish_model(Path(settings.registry.url), seed=2)
    until(lambda: client.get("/models").json()["serving"] == old, "the swap")
    for kind in ("similar", "bought-together"):
        answer = refused(client.get(f"/items/1/{kind}"), 503)
        assert answer["detail"].startswith(f"the model {old} has no related items")
    assert ids(client.post("/recommendations", json={"history": ["1"]}))


def test_models(client: TestClient, settings: Settings, components: Components) -> None:
    first = client.get("/models").json()
    assert first["current"] == first["serving"] == first["versions"][0]["version"]
    assert first["versions"][0]["metrics"] == {}
    version = publish_model(Path(settings.registry.url), seed=2)
    until(lambda: client.get("/models").json()["serving"] == version, "the swap")
    (Path(settings.registry.url) / first["current"] / "manifest.json").write_text("{")
    listed = client.get("/models").json()["versions"]
    created = {entry["version"]: entry["created_at"] for entry in listed}
    assert created.keys() == {version, first["current"]}
    assert created[first["current"]] is None
    assert created[version] is not None


WRONG = [
    ("GET", "/recommendations/u?k=0", None, 422, "query.k"),
    ("GET", "/recommendations/u?k=101", None, 422, "query.k"),
    ("GET", "/recommendations/u?k=ten", None, 422, "query.k"),
    ("GET", f"/recommendations/{'u' * 129}", None, 422, "path.user_id"),
    ("GET", "/recommendations/u?category=none", None, 404, "no category 'none'"),
    ("GET", "/recommendations/u?profile=x", None, 404, "NEXTCLICK_PROFILES has: cheap, spread"),
    ("POST", "/recommendations", b'{"history": [], "profile": "x"}', 404, "no profile 'x'"),
    (
        "POST",
        "/recommendations",
        b'{"history": [], "constraints": {"min_price": 2, "max_price": 1}}',
        422,
        "body.constraints: min_price 2 is above max_price 1",
    ),
    (
        "POST",
        "/recommendations",
        b'{"history": [], "k": 1, "constraints": {"pins": [{"position": 2, "item_id": "1"}]}}',
        422,
        "position 2 of a list of 1",
    ),
    (
        "POST",
        "/recommendations",
        b'{"history": [], "constraints": {"exclude_bought_days": 3}}',
        422,
        "constraints: clicks of 3 days are asked for, and kept for 0",
    ),
    ("GET", "/items/1/similar?k=0", None, 422, "query.k"),
    ("GET", "/items/1/similar?k=31", None, 422, "query.k"),
    ("GET", "/items/1/bought-together?k=ten", None, 422, "query.k"),
    ("GET", f"/items/{'i' * 129}/similar", None, 422, "path.item_id"),
    ("GET", "/items/unheard-of/similar", None, 404, "does not know the item unheard-of"),
    ("GET", "/items/unheard-of/bought-together", None, 404, "does not know the item"),
    ("GET", "/items/1/similar?profile=x", None, 404, "no profile 'x'"),
    ("GET", "/items/1/similar?category=none", None, 404, "no category 'none'"),
    ("POST", "/items/1/similar", None, 405, "Method Not Allowed"),
    ("GET", "/recommendations", None, 405, "Method Not Allowed"),
    ("GET", "/nothing", None, 404, "Not Found"),
    ("POST", "/recommendations", b"{", 422, "JSON"),
    ("POST", "/recommendations", b'{"history": "1"}', 422, "body.history"),
    ("POST", "/recommendations", b'{"history": [""]}', 422, "body.history.0"),
    ("POST", "/recommendations", b'{"history": [true]}', 422, "body.history.0"),
    ("POST", "/recommendations", b'{"history": [], "k": 1.5}', 422, "body.k"),
    ("POST", "/recommendations", b'{"history": [], "kk": 1}', 422, "body.kk"),
    ("POST", "/recommendations", json.dumps({"history": ["1"] * 101}), 422, "body.history"),
    ("POST", "/clicks", b'{"user_id": "u"}', 422, "body.item_id"),
    ("POST", "/clicks", b'{"user_id": "\\ud800", "item_id": "1"}', 422, "JSON"),
    ("POST", "/clicks?k=0", b'{"user_id": "u", "item_id": "1"}', 422, "query.k"),
    ("POST", "/clicks?category=x", b'{"user_id": "u", "item_id": "1"}', 404, "no category 'x'"),
    ("POST", "/recommendations", b'{"history": ["\\ud800"]}', 422, "JSON"),
    ("POST", "/recommendations", b'{"history": ["\xff"]}', 422, "JSON"),
    ("POST", "/recommendations", b"[" * 50_000, 422, "JSON"),
    ("POST", "/recommendations/batch", b'{"requests": []}', 422, "body.requests"),
    ("POST", "/clicks/", b"{}", 404, "Not Found"),
    ("PATCH", "/denied/1", None, 405, "Method Not Allowed"),
    ("OPTIONS", "/recommendations", None, 405, "Method Not Allowed"),
    ("TRACE", "/clicks", None, 405, "Method Not Allowed"),
    ("GET", "/docs/files/../../app.py", None, 404, "Not Found"),
    ("GET", "/docs/files/%2e%2e/%2e%2e/app.py", None, 404, "Not Found"),
    ("GET", "/docs/files/..%2f..%2fapp.py", None, 404, "Not Found"),
    ("POST", "/clicks", b'{"user_id": "u", "item_id": "1", "timestamp": -1}', 422, "timestamp"),
    ("POST", "/clicks", b"[]" + b" " * 65_536, 413, "65536 bytes at most"),
]


def test_what_is_wrong_is_said(client: TestClient) -> None:
    for path in ("/recommendations", "/recommendations/batch", "/clicks"):
        for media_type in ("text/plain", "application/x-www-form-urlencoded", ""):
            other = client.post(path, content=b"{}", headers={"content-type": media_type})
            assert "application/json" in refused(other, 415)["detail"]
    assert client.patch("/denied/1").headers["allow"] == "DELETE, PUT"
    assert client.post("/models").headers["allow"] == "GET, HEAD"
    assert client.head("/models").is_success
    for method, path, body, status, says in WRONG:
        headers = {"content-type": "application/json"} if body else {}
        problem = refused(client.request(method, path, content=body, headers=headers), status)
        assert says in problem["detail"] + " ".join(problem["errors"])


CONTRADICTION = re.compile(
    r"is above max_price|has several pins|is pinned to|and in excluded_|days are asked for"
)
"""What JSON Schema cannot say of constraints."""


def test_every_operation_keeps_what_the_document_promises(
    components: Components, settings: Settings
) -> None:
    clicked(settings, "0", "1", "2", "unheard-of")
    any_host = settings.api.model_copy(update={"allowed_hosts": ["*"]})  # that of Schemathesis
    app = create_app(components, any_host, settings.worker.top_k, access(any_host))
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) == 16
    for operation in operations:

        @hypothesis.settings(
            max_examples=20, suppress_health_check=list(hypothesis.HealthCheck), database=None
        )
        @hypothesis.given(case=operation.as_strategy())
        def holds(case: schemathesis.Case) -> None:
            answer = case.call()
            contradiction = answer.status_code == 422 and CONTRADICTION.search(answer.text)
            case.validate_response(
                answer, excluded_checks=[positive_data_acceptance] if contradiction else []
            )

        holds()


def test_without_redis_popular_items_answer_until_it_is_back(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_server = embedded.start_redis(tmp_path / "redis")
    try:
        monkeypatch.setenv(f"{PREFIX}REDIS__URL", f"redis://{redis_server.address}/0")
        with serving(Settings.from_environment()) as client:
            clicked(Settings.from_environment(), "u", "4")
            assert client.get("/recommendations/u").json()["fallback"] is None
            redis_server.kill()
            lost = client.get("/recommendations/u?k=2")
            assert (ids(lost), lost.json()["fallback"]) == (["1", "2"], "sessions_unavailable")
            by_history = client.post("/recommendations", json={"history": ["4"]})
            assert by_history.json()["fallback"] is None
            assert "REDIS__URL" in refused(client.get("/users/u/session"), 503)["detail"]
            assert client.put("/denied/1").status_code == 204
            ready = client.get("/readyz")
            assert ready.is_success
            assert ready.json()["redis"] != "ok"
            redis_server.restart()
            known = lambda: client.get("/recommendations/u").json()["fallback"] == "cold_start"  # noqa: E731
            until(known, "Redis is asked again; it has forgotten u")
    finally:
        redis_server.kill()


def test_without_kafka_clicks_are_refused_and_lists_are_not(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka_server = embedded.start_kafka(tmp_path / "kafka")
    try:
        monkeypatch.setenv(f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS", kafka_server.address)
        with serving(Settings.from_environment()) as client:
            click = {"user_id": "u", "item_id": "1", "event_id": "first"}
            assert client.post("/clicks", json=click).status_code == 202
            kafka_server.kill()
            click["event_id"] = "second"
            assert "not acknowledged" in refused(client.post("/clicks", json=click), 503)["detail"]
            assert client.get("/recommendations/u").is_success
            kafka_server.restart()
            accepted = lambda: client.post("/clicks", json=click).status_code == 202  # noqa: E731
            until(accepted, "Kafka takes clicks again")
    finally:
        kafka_server.kill()


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[TestClient]:
    publish_model(Path(settings.registry.url), seed=1)
    with open_components(settings) as components:
        assert components.slot.wait(30)
        app = create_app(components, settings.api, 10, access(settings.api))
        yield TestClient(app, HERE, raise_server_exceptions=False)


def test_a_change_of_the_deny_list_reaches_other_processes(
    client: TestClient, settings: Settings
) -> None:
    with ItemCatalogue(settings.kafka) as other:
        client.put("/denied/7")
        until(lambda: other.states.withheld == {"7"}, "the other sees it")
        client.delete("/denied/7")
        until(lambda: not other.states.withheld, "the other sees that, too")


def test_items_are_said_read_retired_and_restored(client: TestClient) -> None:
    bowl = {"title": "Bowl", "categories": ["dogs"], "price": 12.5, "color": "blue"}
    assert client.put("/items/a/b ü", json=bowl).status_code == 204
    assert client.get("/items/a/b ü").json() == {
        "item_id": "a/b ü",
        "tags": [],
        "available": True,
        **bowl,
    }
    several = {"items": [{"item_id": "1", "title": "One"}, {"item_id": 2, "available": False}]}
    assert client.post("/items", json=several).status_code == 204
    assert client.get("/denied").json() == {"items": ["2"]}
    client.put("/denied/1")
    assert client.get("/items/1").json()["title"] == "One"  # all else stays
    assert client.get("/items/1").json()["available"] is False
    best = ids(client.post("/recommendations", json={"history": ["3"]}))
    assert not {"1", "2"} & set(best)
    assert client.delete(f"/items/{best[0]}").status_code == 204
    refused(client.get(f"/items/{best[0]}"), 410)
    assert client.get("/denied").json() == {"items": sorted(["1", "2", best[0]])}
    after = ids(client.post("/recommendations", json={"history": ["3"]}))
    assert after[:-1] == best[1:]
    assert client.delete(f"/denied/{best[0]}").status_code == 204
    assert ids(client.post("/recommendations", json={"history": ["3"]})) == best


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/items/unheard-of", None, 404),
        ("PUT", "/items/1", {"price": "12"}, 422),
        ("PUT", "/items/1", {"text": "t" * 20_000}, 422),
        ("PUT", "/items/1", {"item_id": "2"}, 204),  # the address says which
        ("PUT", f"/items/{'i' * 129}", {}, 422),
        ("POST", "/items", {"items": []}, 422),
        ("POST", "/items", {"items": [{"title": "no id"}]}, 422),
        ("POST", "/items", {"items": [{"item_id": "1", "x": "t" * 20_000}]}, 422),
        ("DELETE", f"/items/{'i' * 129}", None, 422),
    ],
)
def test_what_is_no_item_is_refused(
    client: TestClient, method: str, path: str, body: Any, status: int
) -> None:
    answer = client.request(method, path, json=body)
    if status == 204:
        assert answer.status_code == 204
        assert client.get(path).json()["item_id"] == "1"
    else:
        refused(answer, status)


def test_half_a_surrogate_pair_is_no_item(client: TestClient) -> None:
    for field in (b"title", b"note"):
        body = b'{"' + field + b'": "\\ud800"}'
        answer = client.put("/items/1", content=body, headers={"content-type": "application/json"})
        refused(answer, 422)


def test_with_a_key_nothing_is_told_without_it(components: Components, settings: Settings) -> None:
    guarded = settings.api.model_copy(update={"key": type(settings.api.key)("open sesame")})
    client = TestClient(create_app(components, guarded, 10, access(guarded)), HERE)
    refused(client.get("/recommendations/u"), 401)
    refused(client.get("/recommendations/u", headers={"X-API-Key": "open"}), 401)
    refused(client.get("/models", headers={"X-API-Key": "ü".encode()}), 401)
    refused(client.put("/denied/1"), 401)
    assert client.get("/recommendations/u", headers={"X-API-Key": "open sesame"}).is_success
    assert client.get("/readyz").is_success  # probes carry no key
    for path in ("/metrics", "/docs", "/openapi.json", "/docs/files/swagger-ui.css", "/nothing"):
        refused(client.get(path), 401)
    by_token = client.get("/metrics", headers={"Authorization": "Bearer open sesame"})
    assert by_token.is_success  # as Prometheus sends it


def test_the_documentation_comes_from_here(client: TestClient) -> None:
    files = re.findall(r'(?:src|href)="([^"]*)"', client.get("/docs").text)
    assert len(files) == 3
    for file in files:
        assert file.startswith("/docs/files/")
        assert client.get(file).is_success
    assert client.get("/openapi.json").is_success


def test_requests_are_counted_by_route(client: TestClient) -> None:
    client.get("/recommendations/somebody")
    client.get("/recommendations/somebody?k=0")
    client.get("/nothing")
    shown = client.get("/metrics").text
    route = 'route="/recommendations/{user_id:path}"'
    assert f'nextclick_http_requests_total{{{route},status="200"}}' in shown
    assert f'nextclick_http_requests_total{{{route},status="422"}}' in shown
    assert 'nextclick_http_requests_total{route="other",status="404"}' in shown
    assert "somebody" not in shown


def test_a_process_serves_swaps_and_ends_well(
    launch: Launch, settings: Settings, tmp_path: Path
) -> None:
    process = launch("api")
    until(lambda: listening(tmp_path), "it listens")
    with httpx.Client(base_url=listening(tmp_path)) as client:
        assert refused(client.get("/recommendations/u"), 503)["detail"].startswith("there is no")
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").json() == dict.fromkeys(
            ("recommend", "publish", "explain", "items"), "ok"
        )
        first = publish_model(tmp_path / "registry", seed=1)
        until(lambda: client.get("/readyz").status_code == 200, "it is ready")
        assert client.get("/recommendations/u").json()["model_version"] == first
        second = publish_model(tmp_path / "registry", seed=2)
        until(
            lambda: client.get("/recommendations/u").json()["model_version"] == second, "the swap"
        )
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(20) == 0


def listening(tmp_path: Path) -> str:
    found = re.search(r"listening on (http://[^\s\"]+)", (tmp_path / "api-0.log").read_text())
    return found[1] if found else ""
