"""Passwords, ACL users and TLS of Redis; servers of these tests' own."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from nextclick.shared import embedded
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.redis import RedisSessions
from nextclick.shared.runtime import processes
from nextclick.shared.schemas import Click
from tests.redis_cluster import Cluster, slot_of
from tests.waiting import until

SECRET = "hunter2/#?@ü"
QUOTED = "hunter2%2F%23%3F%40%C3%BC"
SECURITY = Path(__file__).parents[2] / "SECURITY.md"


def store(url: str, prefix: str = "nextclick:session:") -> RedisSessions:
    return RedisSessions(url, key_prefix=prefix, gap_ms=0, ttl_seconds=60, timeout_seconds=5)


def click(event: str = "e", user: str = "u") -> Click:
    return Click(event_id=event, user_id=user, item_id="i", timestamp=1)


def refusal(url: str) -> str:
    """What append and ping say; they agree."""
    said = []
    for ask in (lambda s: s.append([click()]), RedisSessions.ping):
        with pytest.raises(ConfigurationError) as caught:
            ask(store(url))
        said.append(str(caught.value))
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    for text in said:
        assert "NEXTCLICK_REDIS__URL" in text
        assert "hunter2" not in text
        assert "wrong-password" not in text
        assert "\n" not in text
    return said[0]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[embedded.Server]:
    """A server with a password."""
    server = embedded.start_redis(tmp_path, None, "--requirepass", SECRET)
    yield server
    server.kill()


def admin(server: embedded.Server) -> redis.Redis:
    return redis.Redis(port=server.port, password=SECRET)


def documented_acl(user: str = "worker") -> list[str]:
    """The ACL of the worker or of the HTTP service, as SECURITY.md gives it."""
    lines = SECURITY.read_text().splitlines()
    (line,) = [line for line in lines if f"ACL SETUSER {user} on " in line]
    words = line.split("ACL SETUSER", 1)[1].split()
    return [word.strip("'\"") for word in words]


def test_the_password_in_the_url_opens(guarded: embedded.Server) -> None:
    opened = store(f"redis://:{QUOTED}@{guarded.address}/0")
    opened.ping()
    assert opened.append([click()]) == [["i"]]


@pytest.mark.parametrize("login", ["", ":wrong-password@", "nobody:wrong-password@"])
def test_a_wrong_or_missing_password_is_one_line_without_it(
    guarded: embedded.Server, login: str
) -> None:
    assert "refused the login" in refusal(f"redis://{login}{guarded.address}/0")


def test_a_password_that_the_server_does_not_want_is_said(tmp_path: Path) -> None:
    server = embedded.start_redis(tmp_path)
    try:
        assert "refused the login" in refusal(f"redis://:{QUOTED}@{server.address}/0")
    finally:
        server.kill()


def test_the_documented_acl_is_enough(guarded: embedded.Server) -> None:
    name, *rules = documented_acl()
    rules = [f">{SECRET}" if rule.startswith(">") else rule for rule in rules]
    admin(guarded).execute_command("ACL", "SETUSER", name, *rules)
    opened = store(f"redis://{name}:{QUOTED}@{guarded.address}/0")
    opened.ping()
    for i in range(40):  # more than is kept: every branch of the script
        opened.append([click(str(i))])
    admin(guarded).script_flush()
    assert opened.append([click("39")]) == [["i"] * 10]
    assert admin(guarded).acl_log() == []  # nor was anything refused that the client can do without
    with pytest.raises(ConfigurationError, match="SECURITY"):
        store(f"redis://{name}:{QUOTED}@{guarded.address}/0", "other:").append([click()])
    theirs = redis.Redis(port=guarded.port, username=name, password=SECRET)
    for forbidden in (["KEYS", "*"], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["GET", "a"]):
        with pytest.raises(redis.exceptions.NoPermissionError):
            theirs.execute_command(*forbidden)


def test_no_rule_of_the_documented_acl_is_superfluous(guarded: embedded.Server) -> None:
    name, *rules = documented_acl()
    rules = [f">{SECRET}" if rule.startswith(">") else rule for rule in rules]
    for left_out in [rule for rule in rules if rule[0] in "+~"]:
        server = admin(guarded)
        server.execute_command("ACL", "SETUSER", name, "reset")
        server.execute_command("ACL", "SETUSER", name, *(r for r in rules if r != left_out))
        server.flushall()
        server.script_flush()
        opened = store(f"redis://{name}:{QUOTED}@{guarded.address}/0")
        with pytest.raises(ConfigurationError, match="SECURITY") as caught:  # noqa: PT012
            opened.ping()
            for i in range(40):
                opened.append([click(str(i))])
        assert "hunter2" not in str(caught.value), left_out


def test_the_acl_of_the_http_service_is_enough_and_not_more(guarded: embedded.Server) -> None:
    store(f"redis://:{QUOTED}@{guarded.address}/0").append([click()])
    name, *rules = documented_acl("api")
    rules = [f">{SECRET}" if rule.startswith(">") else rule for rule in rules]
    url = f"redis://{name}:{QUOTED}@{guarded.address}/0"

    def work() -> None:
        sessions = store(url)
        sessions.ping()
        assert sessions.read(["u"])[0].history == ["i"]
        assert not sessions.forget("nobody")

    needed = [rule for rule in rules if rule[0] in "+~"]
    for left_out in [None, *needed]:
        admin(guarded).execute_command("ACL", "SETUSER", name, "reset")
        admin(guarded).execute_command("ACL", "SETUSER", name, *(r for r in rules if r != left_out))
        admin(guarded).script_flush()
        with pytest.raises(ConfigurationError) if left_out else contextlib.nullcontext():
            work()
    with pytest.raises(ConfigurationError):
        store(url).append([click("other")])


@pytest.fixture
def guarded_cluster(tmp_path: Path) -> Iterator[Cluster]:
    login = ("--requirepass", SECRET, "--masterauth", SECRET)
    made = Cluster(tmp_path, 3, *login, password=SECRET)
    yield made
    made.close()


def test_a_cluster_wants_the_same_and_little_more(guarded_cluster: Cluster) -> None:
    """SECURITY.md's line and what it adds; each of these is needed."""
    name, *rules = documented_acl()
    rules = [f">{SECRET}" if rule.startswith(">") else rule for rule in rules]
    more = re.findall(r"\+cluster\|slots \+asking \+command", SECURITY.read_text())[0].split()
    address = guarded_cluster.nodes[0].address

    def user_may(*granted: str) -> None:
        for node in guarded_cluster.nodes:
            guarded_cluster.ask(node, "ACL", "SETUSER", name, "reset")
            guarded_cluster.ask(node, "ACL", "SETUSER", name, *rules, *granted)

    def append_and_move() -> None:
        url = f"redis://{name}:{QUOTED}@{address}"
        opened = RedisSessions(
            url,
            key_prefix="nextclick:session:",
            gap_ms=0,
            ttl_seconds=60,
            timeout_seconds=5,
            cluster=True,
        )
        opened.ping()
        opened.append([click(str(i), user=str(i)) for i in range(30)])
        slot = slot_of("nextclick:session:new")
        owner = guarded_cluster.owner(slot)
        target = next(node for node in guarded_cluster.nodes if node is not owner)
        guarded_cluster.open_slot(slot, target)
        try:
            assert opened.append([click("1", user="new")]) == [["i"]]
        finally:
            guarded_cluster.ask(owner, "CLUSTER", "SETSLOT", slot, "STABLE")
            guarded_cluster.ask(target, "CLUSTER", "SETSLOT", slot, "STABLE")
            opened.close()

    user_may(*more)
    append_and_move()
    for left_out in more:
        user_may(*(rule for rule in more if rule != left_out))
        with pytest.raises(ConfigurationError, match="SECURITY"):
            append_and_move()
    for login in ("", ":wrong-password@"):
        opened = RedisSessions(
            f"redis://{login}{address}",
            key_prefix="x",
            gap_ms=0,
            ttl_seconds=60,
            timeout_seconds=5,
            cluster=True,
        )
        with pytest.raises(ConfigurationError, match="refused the login") as caught:
            opened.append([click()])
        assert "wrong-password" not in str(caught.value)
        opened.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/x@localhost:6379/0",  # the port would be the password
        "redis://:hunter2@localhost:port/0",
        "redis://:hunter2@localhost?no_such_option=1",
        "redis://:hunter2@localhost?ssl_ca_certs=ca.pem",  # TLS is rediss://
        "rediss://:hunter2@localhost?ssl_cert_reqs=perhaps",
        "rediss://:hunter2@[localhost",
        "http://:hunter2@localhost",
        "hunter2",
    ],
)
def test_what_is_no_url_is_refused_at_once_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="NEXTCLICK_REDIS__URL") as caught:
        store(url)
    assert "hunter2" not in str(caught.value)


def test_a_ca_file_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ssl_ca_certs=.*No such file"):
        store(f"rediss://:hunter2@localhost?ssl_ca_certs={tmp_path / 'none.pem'}")


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A server that speaks TLS only: its port, and the folder with ca.pem."""
    server, openssl = shutil.which("redis-server"), shutil.which("openssl")
    if server is None or openssl is None:
        pytest.skip("needs redis-server with TLS and openssl: apt-get install redis-server openssl")
    request = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    for name in ("ca", "other"):
        extensions = ["-addext", "subjectAltName=IP:127.0.0.1", "-subj", f"/CN={name}"]
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        subprocess.run([*request, *extensions, *files], check=True, capture_output=True)
    port = embedded.free_port()
    command = [server, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"]
    command += ["--tls-cert-file", str(tmp_path / "ca.pem"), "--tls-auth-clients", "no"]
    command += ["--tls-key-file", str(tmp_path / "ca.key"), "--requirepass", SECRET]
    command += ["--save", "", "--dir", str(tmp_path)]
    process = processes.spawn(command, tmp_path / "redis.log")
    log = tmp_path / "redis.log"
    until(lambda: process.poll() is not None or "Ready to accept" in log.read_text(), "TLS", 20)
    if process.poll() is not None:
        pytest.skip("this redis-server was built without TLS")
    yield port, tmp_path
    process.kill()
    process.wait()


def test_tls_with_the_ca_in_the_url(encrypted: tuple[int, Path]) -> None:
    port, folder = encrypted
    base = f"rediss://:{QUOTED}@127.0.0.1:{port}/0"
    opened = store(f"{base}?ssl_ca_certs={folder / 'ca.pem'}")
    opened.ping()
    assert opened.append([click()]) == [["i"]]
    assert "not trusted" in refusal(base)
    assert "not trusted" in refusal(f"{base}?ssl_ca_certs={folder / 'other.pem'}")
    wrong = f"rediss://:wrong-password@127.0.0.1:{port}/0?ssl_ca_certs={folder / 'ca.pem'}"
    assert "refused the login" in refusal(wrong)
