"""Least privilege: SECURITY.md's ACLs are enough for each service, and each is missed by name."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest
import redis

import nextclick
from nextclick.services.api.click_publisher import ClickPublisher
from nextclick.services.api.item_editor import ItemEditor, set_available
from nextclick.services.api.page.feed import Feed
from nextclick.services.api.published_clicks import PublishedClicks
from nextclick.services.cli.explain import find_answer
from nextclick.services.dlq import dead_letters, redrive
from nextclick.services.forget import topics as forgetting
from nextclick.services.items.publish import publish as publish_items
from nextclick.services.related.main import publish_once
from nextclick.services.topics import check
from nextclick.services.worker import main as worker_main
from nextclick.services.worker import rebuild
from nextclick.shared import embedded
from nextclick.shared.click_rules import ClickRules
from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.items import with_availability
from nextclick.shared.kafka import (
    ClickConsumer,
    ItemCatalogue,
    LagMonitor,
    Publisher,
    TopicReader,
    ensure_topics,
    read_items,
    read_offsets,
    retained_offsets,
)
from nextclick.shared.messages import OutMessage
from nextclick.shared.model import Scorer, select_device
from nextclick.shared.registry import ModelSlot, Registry
from nextclick.shared.runtime.settings import PREFIX, Settings
from nextclick.shared.schemas import Click, Recommendation
from nextclick.trainer import main as trainer_main
from tests.backend import Backend
from tests.faults import children
from tests.faults.children import Child
from tests.integration.guarded_kafka import (
    PASSWORD,
    REAUTHENTICATE_SECONDS,
    SECURITY,
    Guarded,
    Rule,
    click,
    documented,
    guarded_kafka,
)
from tests.integration.traffic import publish_model
from tests.unit.builders import checkpoint, related_lists
from tests.waiting import until

ANY_TOPIC_OPERATION = "Describe (which Read and Write include)"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_kafka(tmp_path_factory.mktemp("kafka-acls")) as made:
        yield made


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    publish_model(folder, seed=1)
    return folder


@pytest.fixture
def environ(
    backend: Backend, registry: Path, name: str, tmp_path: Path
) -> Iterator[dict[str, str]]:
    """All that a service needs beside Kafka."""
    yield {
        **os.environ,
        "COLUMNS": "200",
        f"{PREFIX}DEVICE": "cpu",
        f"{PREFIX}LOG_FORMAT": "text",
        f"{PREFIX}REGISTRY__URL": str(registry),
        f"{PREFIX}REDIS__URL": backend.redis_url,
        f"{PREFIX}REDIS__KEY_PREFIX": f"test:{name}:",
        f"{PREFIX}TRAINER__EVENT_LOG": str(tmp_path / "event_log"),
        f"{PREFIX}TRAINER__MIN_CLICKS": "1000000",
        f"{PREFIX}WORKER__METRICS_PORT": "0",
        f"{PREFIX}TRAINER__METRICS_PORT": "0",
        f"{PREFIX}TRAINER__TORCH_THREADS": "1",
    }
    client = redis.Redis.from_url(backend.redis_url)
    for key in client.scan_iter(match=f"test:{name}:*"):
        client.delete(key)
    client.close()


ANSWER = Recommendation(
    event_id="answered",
    user_id="user",
    items=[],
    model_version="m",
    history=["1"],
    click_timestamp=1,
    scored_at=2,
)


# Each does with Kafka what the service does, and returns.


def answer_clicks(settings: Settings, guarded: Guarded) -> None:
    """A worker: what is no click becomes a letter, a click is answered, both are committed."""
    stop = threading.Event()
    slot = ModelSlot(
        Registry(settings.registry.url),
        lambda checkpoint: Scorer(checkpoint, select_device("cpu"), 10),
        0.1,
    )
    items = ItemCatalogue(settings.kafka)
    worker = worker_main.build(
        settings,
        slot,
        lambda: items.states,
        stop,
        lambda step: stop.set() if step == "committed" else None,
    )
    guarded.send(("clicks", b"no click"), ("clicks", click(uuid.uuid4().hex)))
    slot.start()
    items.start()
    try:
        assert slot.wait(30)
        await_items(items)
        limit = threading.Timer(30, stop.set)
        limit.start()
        worker.run()
        limit.cancel()
    finally:
        worker.close()
        items.stop()
        slot.stop()


def await_items(items: ItemCatalogue) -> None:
    """As the worker does, which ends by what is raised."""
    while not items.wait(1.0):
        pass
    items.check()


def answer_clicks_exactly_once(settings: Settings, guarded: Guarded) -> None:
    ours = settings.worker.model_copy(update={"guarantee": "exactly_once"})
    answer_clicks(settings.model_copy(update={"worker": ours}), guarded)


def collect_clicks(settings: Settings, guarded: Guarded) -> None:
    assert trainer_main.run(settings, threading.Event(), once=True) is None


def publish_clicks(settings: Settings, guarded: Guarded) -> None:
    assert nextclick.publish_clicks([Click.model_validate_json(click("1"))], settings.kafka) == 1


def post_clicks(settings: Settings, guarded: Guarded) -> None:
    ClickPublisher(settings.kafka, PublishedClicks(ClickRules())).publish(
        [(Click.model_validate_json(click("1")), ())]
    )
    with closing(LagMonitor(settings.kafka, "clicks", settings.worker.group_id)) as monitor:
        monitor.ping(5.0)  # /readyz
    with ItemCatalogue(settings.kafka) as items:
        await_items(items)
        ItemEditor(settings.kafka, items).apply([set_available("1", False)])
        assert items.states.withheld == {"1"}
        ItemEditor(settings.kafka, items).apply([set_available("1", True)])


def change_items(settings: Settings, guarded: Guarded) -> None:
    publish_items(settings.kafka, {"2": None})
    table = read_items(settings.kafka)
    assert "2" in table.states.retired
    publish_items(settings.kafka, {"2": with_availability(table, "2", True)})


def publish_related(settings: Settings, guarded: Guarded) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = dataclasses.replace(checkpoint(), related=related_lists())
        ours = settings.registry.model_copy(update={"url": folder})
        for _ in range(2):  # the second time there is something to read
            Registry(folder).publish(made)  # a new version, so that there is something to send
            assert publish_once(settings.model_copy(update={"registry": ours})) == 30


def look_at_the_page(settings: Settings, guarded: Guarded) -> None:
    feed = Feed(settings.kafka, settings.worker.group_id, {})
    stream = feed.watch()
    try:
        until(lambda: feed.error or stream.points, "the page shows something", 20)
        if feed.error:
            raise ConfigurationError(feed.error)
    finally:
        feed.stop()


def explain(settings: Settings, guarded: Guarded) -> None:
    guarded.send(("recommendations", ANSWER.model_dump_json().encode()))
    assert find_answer(settings, ANSWER.event_id) == ANSWER


def read_recommendations(settings: Settings, guarded: Guarded) -> None:
    list(nextclick.recommendations(settings.kafka, from_beginning=True, silence_seconds=0.5))


def list_letters(settings: Settings, guarded: Guarded) -> None:
    assert list(
        read_offsets(settings.kafka, "clicks.dlq", retained_offsets(settings.kafka, "clicks.dlq"))
    )


def redrive_letters(settings: Settings, guarded: Guarded) -> None:
    guarded.send(("clicks.dlq", b"{}"))
    gone, _ = redrive.run(settings, dead_letters.select_reasons(None))
    assert gone


def rebuild_sessions(settings: Settings, guarded: Guarded) -> None:
    assert rebuild.run(settings).read


def forget_user(settings: Settings, guarded: Guarded) -> None:
    kafka = settings.kafka
    held = retained_offsets(kafka, "clicks")
    forgetting.await_group(kafka, settings.worker.group_id, held, wait_seconds=0)
    found = forgetting.look(kafka, "nobody", 0.0, count_messages=True)
    assert [topic.messages for topic in found] == [0, 0, 0]


def create_topics(settings: Settings, guarded: Guarded) -> None:
    kafka = settings.kafka
    wanted = [*kafka.topics, kafka.related_topic]
    assert ensure_topics(kafka, wanted) == wanted
    assert ensure_topics(kafka, wanted) == []


def check_topics(settings: Settings, guarded: Guarded) -> None:
    assert check.run(settings, 100).messages


Service = Callable[[Settings, Guarded], None]


@dataclass(frozen=True)
class Case:
    """A service, and what it needs of what SECURITY.md gives to its user."""

    user: str
    run: Service
    needs: Callable[[Rule], bool] = lambda rule: True

    @property
    def rules(self) -> list[Rule]:
        return [rule for rule in documented(self.user) if self.needs(rule)]


def _for_the_page(rule: Rule) -> bool:
    return rule.operation != "Write" and rule.name != "items"


CASES = {
    "worker": Case("worker", answer_clicks, lambda rule: rule.kind != "transactional-id"),
    "worker-exactly-once": Case("worker", answer_clicks_exactly_once),
    "trainer": Case("trainer", collect_clicks),
    "shop": Case("shop", publish_clicks),
    "api": Case("api", post_clicks, lambda rule: not _for_the_page(rule)),
    "page": Case("api", look_at_the_page, _for_the_page),
    "explain": Case("explain", explain),
    "recommendations": Case("explain", read_recommendations),
    "dlq": Case("dlq", list_letters),
    "redrive": Case("redrive", redrive_letters),
    "rebuild": Case("rebuild", rebuild_sessions),
    "forget": Case("forget", forget_user),
    "items": Case("items", change_items),
    "related": Case("related", publish_related),
    "topics": Case("topics", create_topics),
    "check": Case("check", check_topics),
}


@pytest.fixture
def serve(
    guarded: Guarded, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Case, list[Rule]], None]:
    """Run a service as a user with these permissions."""
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)

    def run(case: Case, rules: list[Rule]) -> None:
        login = guarded.user(anew(rules) if case.user == "topics" else rules)
        kafka = guarded.settings(login)
        if case.user == "topics":
            kafka = kafka.model_copy(
                update={
                    f"{topic}_topic": f"{getattr(kafka, f'{topic}_topic')}.{_suffix}"
                    for topic in ("clicks", "recommendations", "dlq", "items", "related")
                }
            )
        settings = Settings.from_environment().model_copy(update={"kafka": kafka})
        case.run(settings, guarded)

    _suffix = uuid.uuid4().hex[:8]

    def anew(rules: list[Rule]) -> list[Rule]:
        """The same for topics that are not there yet."""
        return [dataclasses.replace(rule, name=f"{rule.name}.{_suffix}") for rule in rules]

    return run


Serve = Callable[[Case, list[Rule]], None]


@pytest.mark.parametrize("name_of_case", CASES)
def test_the_documented_permissions_are_enough(serve: Serve, name_of_case: str) -> None:
    serve(CASES[name_of_case], CASES[name_of_case].rules)


def one_left_out() -> Iterator[object]:
    for name, case in CASES.items():
        for rule in case.rules:
            if case.run is answer_clicks_exactly_once and rule.kind != "transactional-id":
                continue  # the same requests as at least once, up to the first transaction
            yield pytest.param(case, rule, id=f"{name}-without-{rule}".replace(" ", "-"))


def one_lessened() -> Iterator[object]:
    """Who may see a topic gets further, and must hear of it later: Kafka's errors are others."""
    for name, case in CASES.items():
        for rule in case.rules:
            if rule.operation in ("Read", "Write"):
                yield pytest.param(case, rule, id=f"{name}-without-{rule}".replace(" ", "-"))


@pytest.mark.parametrize(("case", "rule"), list(one_left_out()))
def test_one_left_out_is_named(serve: Serve, case: Case, rule: Rule) -> None:
    line = refusal(serve, case, [other for other in case.rules if other != rule])
    operation = f"({re.escape(rule.operation)}|{re.escape(ANY_TOPIC_OPERATION)})"
    assert re.search(f"{operation} on the {resource(rule)}", line), line


@pytest.mark.long
@pytest.mark.parametrize(("case", "rule"), list(one_lessened()))
def test_describe_instead_of_it_is_not_enough_and_named(
    serve: Serve, case: Case, rule: Rule
) -> None:
    described = dataclasses.replace(rule, operation="Describe")
    line = refusal(serve, case, [described if other == rule else other for other in case.rules])
    assert re.search(f"lacks .*{rule.operation} on the {resource(rule)}", line), line


def resource(rule: Rule) -> str:
    return f"{rule.kind.replace('-', ' ')} {re.escape(rule.name)}"


def refusal(serve: Serve, case: Case, rules: list[Rule]) -> str:
    began = time.monotonic()
    with pytest.raises(ConfigurationError) as caught:
        serve(case, rules)
    line = str(caught.value)
    assert time.monotonic() - began < 10
    assert "SECURITY.md" in line
    assert "\n" not in line
    assert PASSWORD not in line
    return line


def test_every_user_of_the_document_is_tried() -> None:
    users = set(re.findall(r"--allow-principal User:(\S+)", SECURITY.read_text()))
    assert users == {case.user for case in CASES.values()}
    for user in users:
        tried = itertools.chain(*(c.rules for c in CASES.values() if c.user == user))
        assert set(tried) == set(documented(user))


COMMANDS = {
    "simulate": ("shop", ["simulate", "--seconds", "0.5", "--rate", "20"], 0, "topic clicks"),
    "trainer": ("trainer", ["trainer", "--once"], 0, "topic clicks"),
    "explain": ("explain", ["explain", "nobody"], 2, "topic recommendations"),
    "dlq": ("dlq", ["dlq", "list"], 0, "topic clicks.dlq"),
    "redrive": ("redrive", ["dlq", "redrive"], 0, "topic clicks.dlq"),
    "rebuild": ("rebuild", ["sessions", "rebuild"], 0, "topic clicks"),
    "create": ("topics", ["topics", "create"], 0, ""),  # they are there
    "check": ("check", ["topics", "check"], 1, "topic clicks"),  # it finds what these tests send
}


@pytest.mark.parametrize("name_of_command", COMMANDS)
def test_the_commands_do_with_it_and_say_without(
    guarded: Guarded, environ: dict[str, str], tmp_path: Path, name_of_command: str
) -> None:
    user, arguments, code, missing = COMMANDS[name_of_command]

    def run(name: str, rules: list[Rule]) -> tuple[int, str]:
        log = tmp_path / f"{name}.log"
        ours = environ | guarded.variables(guarded.user(rules))
        child = Child(children.start(arguments, ours, log))
        return child.wait(60), log.read_text()

    returned, text = run("allowed", documented(user))
    assert returned == code, text
    assert "authorization" not in text.lower()
    if missing:
        returned, text = run("forbidden", [])
        assert returned == 2, text
        assert f"lacks {ANY_TOPIC_OPERATION} on the {missing} (SECURITY.md)" in text
        assert "Traceback" not in text
        assert PASSWORD not in text


@pytest.mark.parametrize("name_of_command", ["simulate", "trainer"])
def test_no_log_holds_the_password_however_much_is_logged(
    guarded: Guarded, environ: dict[str, str], tmp_path: Path, name_of_command: str
) -> None:
    user, arguments, code, _ = COMMANDS[name_of_command]
    talkative = {**guarded.user(documented(user)), "debug": "all"}
    log = tmp_path / "talkative.log"
    ours = environ | guarded.variables(talkative) | {f"{PREFIX}LOG_LEVEL": "DEBUG"}
    assert Child(children.start(arguments, ours, log)).wait(60) == code
    text = log.read_text()
    assert str(talkative["sasl.username"]) in text  # librdkafka's own lines are there
    assert PASSWORD not in text
    assert base64.b64encode(PASSWORD.encode()).decode().rstrip("=") not in text


def test_worker_and_api_as_processes(
    guarded: Guarded, environ: dict[str, str], tmp_path: Path
) -> None:
    """A click by HTTP is answered; each process logs in as its own user, and nothing is refused."""
    api_port = embedded.free_port()
    port = {f"{PREFIX}API__PORT": str(api_port)}
    logs = {name: tmp_path / f"{name}.log" for name in ("worker", "api")}
    processes = [
        Child(
            children.start(
                [name],
                environ | port | guarded.variables(guarded.user(documented(name))),
                log,
            )
        )
        for name, log in logs.items()
    ]
    try:
        address = f"http://127.0.0.1:{api_port}"
        until(lambda: answers(f"{address}/readyz"), "the api is ready")
        body = {"user_id": "u", "item_id": "1", "event_id": uuid.uuid4().hex}
        assert httpx.post(f"{address}/clicks", json=body, timeout=10).status_code == 202
        everything = TopicReader(guarded.all_powerful, ["recommendations"])
        until(
            lambda: any(body["event_id"].encode() in (m.value or b"") for m in everything.poll()),
            "the click is answered",
        )
        everything.close()
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)
    for log in logs.values():
        assert "authorization" not in log.read_text().lower(), log.read_text()
        assert PASSWORD not in log.read_text()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=3).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_login_that_is_taken_away_ends_a_consumer_and_is_said_by_a_producer(
    guarded: Guarded,
) -> None:
    login = guarded.user([*documented("worker"), *documented("shop")])
    settings = guarded.settings(login)
    consumer = ClickConsumer(settings, "clicks", "nextclick-worker")
    publisher = Publisher(settings)
    publisher.connect()
    until(lambda: (consumer.poll(100, 0.1), consumer.assignment)[1], "the group is joined")
    guarded.remove(str(login["sasl.username"]))
    deadline = time.monotonic() + 10 * REAUTHENTICATE_SECONDS
    with pytest.raises(ConfigurationError, match="SASL authentication error"):  # noqa: PT012
        while time.monotonic() < deadline:
            consumer.poll(100, 0.2)
    publisher.send([OutMessage("clicks", b"k", b"v")])
    with pytest.raises(Unavailable, match=r"not acknowledged .* SASL authentication error"):
        publisher.wait_acknowledged(2.0)
    consumer.close()


def test_a_producer_that_may_write_nowhere_ends_with_the_reason(guarded: Guarded) -> None:
    """Kafka gives it no producer id; librdkafka then names no reason but the first time."""
    publisher = Publisher(guarded.settings(guarded.user([Rule("Describe", "topic", "clicks")])))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="lacks Write on the topic clicks"):  # noqa: PT012
            publisher.send([OutMessage("clicks", b"k", b"v")])
            publisher.wait_acknowledged()
