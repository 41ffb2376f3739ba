"""Every service logs in with passwords that are easy to find, and none of its output holds one.

At DEBUG, with librdkafka's own debugging: stdout, stderr, answers over HTTP, what is written to the
registry, the event log and the topics.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import boto3
import httpx2 as httpx
import pytest

from nextclick.shared import embedded
from nextclick.shared.kafka import Publisher, TopicReader, read_offsets, retained_offsets
from nextclick.shared.messages import OutMessage, of_user
from nextclick.shared.runtime.settings import PREFIX
from tests.faults import children
from tests.faults.children import Child
from tests.integration.guarded_kafka import TOPICS, Guarded, documented, guarded_kafka
from tests.integration.s3_servers import S3Server, aws, moto, tell
from tests.integration.test_s3_registry import URL, log_in_as
from tests.integration.test_trainer import world_clicks
from tests.waiting import until

__all__ = ["aws", "moto"]  # fixtures

pytestmark = pytest.mark.long

KAFKA, REDIS, API, S3 = ("kAfKaPw7f3a/+#1", "rEdIsPw91bc/@?2", "aPiKeY5d20xyz+3", "s3SeCrEt8e6f/+4")
WRONG = {"kafka": "wRoNgKaFk4aa/#5", "redis": "wRoNgReDi5bb/@6", "s3": "wRoNgS3kEyccc/7"}
SECRETS = [KAFKA, REDIS, API, S3, *WRONG.values()]
PLAIN = 10
"""So many of the first characters of a secret look the same in URLs, JSON and Python."""
RULES = ["worker", "trainer", "shop", "api", "explain", "dlq", "redrive", "rebuild", "topics"]


def forms(secret: str) -> list[str]:
    """What to look for: as text, cut or not, as hexadecimal, and as base64 wherever it begins."""
    raw = secret.encode()
    # The first group also has what came before, the last what comes after.
    shifted = [base64.b64encode(bytes(n) + raw).decode()[4 if n else 0 : -4] for n in range(3)]
    return [secret[:PLAIN], raw.hex(), *shifted]


def holds_none(what: str, content: str | bytes) -> None:
    """Fail, and say where, if a secret is in there."""
    text = content.decode("latin-1") if isinstance(content, bytes) else content
    for secret in SECRETS:
        for form in forms(secret):
            at = text.find(form)
            assert at < 0, f"{what} holds {form}: …{text[max(0, at - 80) : at + 80]!r}…"


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_would_be_found(secret: str) -> None:
    sasl_plain = base64.b64encode(b"\0user\0" + secret.encode() + b"\0").decode()
    for text in (f"redis://u:{secret}@h", json.dumps([secret]), sasl_plain, secret.encode().hex()):
        with pytest.raises(AssertionError, match="holds"):
            holds_none("this", text)


@dataclass
class Everything:
    """Servers that ask for passwords, and services that know them, or do not."""

    folder: Path
    environ: dict[str, str]
    ports: dict[str, int]

    def start(self, *arguments: str, **overrides: str) -> Child:
        log = self.folder / f"{'-'.join(arguments[:2]).replace('/', '_')}.log"
        return Child(children.start(arguments, self.environ | overrides, log))

    def get(self, service: str, path: str) -> str:
        """What a service answers, if it does."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.ports[service]}{path}", timeout=10).text
        return ""

    def reaches_all(self, service: str) -> bool:
        """Whether each check of its /readyz is ok."""
        answer = self.get(service, "/readyz")
        return bool(answer) and set(json.loads(answer).values()) == {"ok"}

    def check_logs(self) -> None:
        logs = list(self.folder.glob("*.log"))
        for log in logs:
            holds_none(log.name, log.read_bytes())
        assert logs


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_kafka(tmp_path_factory.mktemp("kafka")) as made:
        yield made


@pytest.fixture(scope="module")
def server(moto: S3Server) -> S3Server:
    return moto  # `test_services_that_are_refused` steers it


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[embedded.Server]:
    (tmp_path / "redis").mkdir()
    made = embedded.start_redis(tmp_path / "redis", None, "--requirepass", REDIS)
    yield made
    made.kill()


@pytest.fixture(params=["in the environment", "in files"])
def everything(
    request: pytest.FixtureRequest,
    guarded: Guarded,
    redis_server: embedded.Server,
    aws: dict[str, str],
    tmp_path: Path,
) -> Everything:
    login = guarded.user({rule for name in RULES for rule in documented(name)}, KAFKA)
    ports = {name: embedded.free_port() for name in ("worker", "trainer", "api")}
    for name in ("kafka", "redis", "wrong-kafka", "wrong-redis"):
        secret = {"kafka": KAFKA, "redis": REDIS}.get(name) or WRONG[name.removeprefix("wrong-")]
        (tmp_path / f"{name}.secret").write_text(secret)
    environ = {
        **os.environ,
        **aws,
        "AWS_SECRET_ACCESS_KEY": S3,
        "COLUMNS": "200",
        **guarded.variables({**login, "debug": "all"}),
        f"{PREFIX}DEVICE": "cpu",
        f"{PREFIX}LOG_LEVEL": "DEBUG",
        f"{PREFIX}REDIS__URL": f"redis://:{REDIS.replace('/', '%2F').replace('?', '%3F')}"
        f"@{redis_server.address}/0",
        f"{PREFIX}REGISTRY__URL": URL,
        f"{PREFIX}WORKER__METRICS_PORT": str(ports["worker"]),
        f"{PREFIX}TRAINER__METRICS_PORT": str(ports["trainer"]),
        f"{PREFIX}TRAINER__EVENT_LOG": str(tmp_path / "event_log"),
        f"{PREFIX}TRAINER__MAX_EPOCHS": "2",
        f"{PREFIX}TRAINER__TORCH_THREADS": "1",
        f"{PREFIX}API__PORT": str(ports["api"]),
        f"{PREFIX}API__KEY": API,
    }
    if request.param == "in files":
        del login["sasl.password"]
        environ |= {
            **guarded.variables({**login, "debug": "all"}),
            f"{PREFIX}KAFKA__SASL_PASSWORD_FILE": str(tmp_path / "kafka.secret"),
            f"{PREFIX}REDIS__URL": f"redis://{redis_server.address}/0",
            f"{PREFIX}REDIS__PASSWORD_FILE": str(tmp_path / "redis.secret"),
        }
    return Everything(tmp_path, environ, ports)


def test_services_that_are_let_in(everything: Everything, guarded: Guarded, name: str) -> None:
    publisher = Publisher(guarded.all_powerful)
    publisher.send(of_user("clicks", click) for click in world_clicks(6000, seed=1))
    publisher.send([OutMessage("clicks", b"u", b"no click")])
    publisher.wait_acknowledged()
    assert everything.start("trainer", "--once").wait(200) == 0
    running = [everything.start(name) for name in ("worker", "trainer", "api")]
    key = {"X-API-Key": API}
    address = f"http://127.0.0.1:{everything.ports['api']}"
    bodies = {}
    try:
        for service in everything.ports:
            until(partial(everything.reaches_all, service), f"{service} reaches all it needs")
        click = {"event_id": name, "user_id": "u", "item_id": "1"}
        bodies["click"] = httpx.post(f"{address}/clicks", json=click, headers=key, timeout=20).text
        with closing(TopicReader(guarded.all_powerful, ["recommendations"])) as reader:
            until(
                lambda: any(name.encode() in (m.value or b"") for m in reader.poll()),
                "the click is answered",
            )
        for service in everything.ports:
            for path in ("/metrics", "/readyz", "/healthz"):
                bodies[f"{service} {path}"] = everything.get(service, path)
        for path in ("/", "/docs", "/openapi.json", "/models", "/denied", "/recommendations/u"):
            bodies[path] = httpx.get(f"{address}{path}", headers=key, timeout=20).text
            bodies[f"{path} without a key"] = everything.get("api", path)
        wrong = {"X-API-Key": API[::-1]}
        bodies["a wrong key"] = httpx.get(f"{address}/models", headers=wrong, timeout=20).text
        bodies["no click"] = httpx.post(f"{address}/clicks", json=[], headers=key, timeout=20).text
        for command, code in COMMANDS.items():
            words = command.replace("EVENT", name).split()
            assert everything.start(*words).wait(60) == code, command
    finally:
        for child in running:
            child.terminate()
            child.wait(30)
    assert all(bodies.values())
    for what, body in bodies.items():
        holds_none(what, body)
    everything.check_logs()
    for service in everything.ports:  # it was as talkative as can be
        text = (everything.folder / f"{service}.log").read_text()
        assert "SASL" in text
        assert "botocore" in text
    objects = boto3.client("s3").list_objects_v2(Bucket="models")["Contents"]
    assert any(o["Key"].endswith("manifest.json") for o in objects)
    for found in objects:
        body = boto3.client("s3").get_object(Bucket="models", Key=found["Key"])["Body"]
        holds_none(found["Key"], body.read())
    for file in (everything.folder / "event_log").rglob("*"):
        if file.is_file():
            holds_none(file.name, file.read_bytes())
    for topic in TOPICS:
        held = retained_offsets(guarded.all_powerful, topic)
        for message in read_offsets(guarded.all_powerful, topic, held):
            holds_none(topic, repr((message.key, message.value, message.headers)))


COMMANDS = {
    "simulate --seconds 0.5 --rate 20": 0,
    "explain EVENT": 0,
    "dlq list": 0,
    "dlq redrive": 0,
    "sessions rebuild": 0,
    "topics create": 0,
    "topics check": 1,  # it finds the message that is no click
    "models list": 0,
    "settings": 0,
}
REFUSED = {
    "kafka": ["worker", "trainer", "simulate", "explain e", "dlq list", "topics check"],
    "redis": ["worker", "sessions rebuild"],
    "s3": ["trainer", "models list"],
}
"""Commands that end with one line if this server does not let them in."""


@pytest.mark.parametrize("by", REFUSED)
def test_services_that_are_refused(
    by: str,
    everything: Everything,
    guarded: Guarded,
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = wrong_secrets(by, everything)
    if by == "s3":
        log_in_as("somebody", ["s3:*"], monkeypatch, server)
    ended = {command: everything.start(*command.split(), **wrong) for command in REFUSED[by]}
    api = everything.start("api", **wrong)
    bodies = []
    try:
        for command, child in ended.items():
            assert child.wait(90) == 2, command
        until(lambda: misses(everything.get("api", "/readyz"), by), "the api says what is wrong")
        bodies = [everything.get("api", path) for path in ("/readyz", "/metrics", "/")]
        address, key = f"http://127.0.0.1:{everything.ports['api']}", {"X-API-Key": API}
        click = {"user_id": "u", "item_id": "1"}
        bodies.append(httpx.post(f"{address}/clicks", json=click, headers=key, timeout=30).text)
        bodies.append(httpx.get(f"{address}/recommendations/u", headers=key, timeout=30).text)
    finally:
        api.terminate()
        api.wait(30)
        tell(server, "reset-auth", "inf")
    for body in bodies:
        holds_none("an answer of the api", body)
    everything.check_logs()


def wrong_secrets(by: str, everything: Everything) -> dict[str, str]:
    """Variables with a wrong password in place of the right one."""
    if by == "s3":
        return {"AWS_SECRET_ACCESS_KEY": WRONG[by]}
    name = {"kafka": "KAFKA__SASL_PASSWORD_FILE", "redis": "REDIS__PASSWORD_FILE"}[by]
    if f"{PREFIX}{name}" in everything.environ:
        return {f"{PREFIX}{name}": str(everything.folder / f"wrong-{by}.secret")}
    if by == "redis":
        address = everything.environ[f"{PREFIX}REDIS__URL"].rpartition("@")[2]
        return {f"{PREFIX}REDIS__URL": f"redis://:{WRONG[by].replace('/', '%2F')}@{address}"}
    options = json.loads(everything.environ[f"{PREFIX}KAFKA__CLIENT_CONFIG"])
    return {f"{PREFIX}KAFKA__CLIENT_CONFIG": json.dumps({**options, "sasl.password": WRONG[by]})}


def misses(readyz: str, by: str) -> bool:
    check = {"kafka": "kafka", "redis": "redis", "s3": "model"}[by]
    return bool(readyz) and json.loads(readyz)[check] != "ok"
