from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping

import pytest

from nextclick.shared.errors import ConfigurationError, Unavailable
from nextclick.shared.runtime import health, metrics
from nextclick.shared.runtime.health import Check, HealthServer, Probe
from nextclick.shared.runtime.heartbeat import STEP_SECONDS, Heartbeat, Stuck
from tests.waiting import until

Start = Callable[..., HealthServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server on a free port; it is closed after the test."""
    servers = []

    def begin(
        alive: Mapping[str, Check] | None = None,
        ready: Mapping[str, Check] | None = None,
        not_deciding: Collection[str] = (),
    ) -> HealthServer:
        checks = {"alive": alive or {}, "ready": ready or {}}
        servers.append(HealthServer(0, "SETTING", **checks, not_deciding=not_deciding))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def get(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def well() -> None:
    pass


def away() -> None:
    raise Unavailable("Redis is away")


def test_a_check_that_does_not_decide_is_shown(start: Start) -> None:
    server = start(ready={"redis": well, "experiment": away}, not_deciding=["experiment"])
    status, body = get(server, "/readyz")
    assert (status, json.loads(body)) == (200, {"redis": "ok", "experiment": "Redis is away"})
    assert 'nextclick_ready{check="experiment"} 0.0' in get(server, "/metrics")[1]
    metrics.READY.remove("experiment")  # it is the whole process's


def test_all_well_is_200_with_an_entry_for_each_check(start: Start) -> None:
    server = start(alive={"loop": well}, ready={"redis": well, "kafka": well})
    assert get(server, "/healthz")[0] == 200
    status, body = get(server, "/readyz")
    assert (status, json.loads(body)) == (200, {"redis": "ok", "kafka": "ok"})


def test_one_failing_check_is_503_with_its_reason(start: Start) -> None:
    status, body = get(start(ready={"redis": away, "kafka": well}), "/readyz")
    assert (status, json.loads(body)) == (503, {"redis": "Redis is away", "kafka": "ok"})


def test_a_bug_in_a_check_is_no_reason_to_crash(start: Start) -> None:
    status, body = get(start(ready={"odd": lambda: {}["x"]}), "/readyz")
    assert (status, json.loads(body)) == (503, {"odd": "KeyError('x')"})


def test_metrics_are_served_beside_it(start: Start) -> None:
    metrics.CLICKS.inc(0)
    status, body = get(start(), "/metrics")
    assert status == 200
    assert "nextclick_clicks_total" in body


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/nowhere", "GET", 404), ("/readyz", "POST", 405)]
)
def test_anything_else_is_refused(start: Start, path: str, method: str, status: int) -> None:
    assert get(start(), path, method)[0] == status


def test_a_check_that_hangs_fails_in_time_and_holds_nobody_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "WAIT_SECONDS", 1.0)  # enough for "b" on a busy machine
    go_on = threading.Event()
    server = start(alive={"loop": well}, ready={"hung": lambda: go_on.wait(30) and None, "b": well})
    try:
        for _ in range(2):  # the second time it is still under way, and is not started again
            status, body = get(server, "/readyz")
            assert (status, json.loads(body)["b"]) == (503, "ok")
            assert json.loads(body)["hung"] == "no answer within 1 s"
        assert sum(t.name == "probe" for t in threading.enumerate()) == 1
        assert get(server, "/healthz")[0] == 200
    finally:
        go_on.set()
    until(lambda: get(server, "/readyz")[0] == 200, "the check ends")


def test_metrics_say_which_checks_fail(start: Start) -> None:
    server = start(ready={"redis_is": well, "kafka_is": away})
    text = get(server, "/metrics")[1]
    assert 'nextclick_ready{check="redis_is"} 1.0' in text
    assert 'nextclick_ready{check="kafka_is"} 0.0' in text
    for check in ("redis_is", "kafka_is"):
        metrics.READY.remove(check)  # it is the whole process's


def test_many_requests_run_one_check_a_second() -> None:
    times, asked = [0.0], []
    probe = Probe(lambda: asked.append(1), clock=lambda: times[0])
    for times[0] in (0.0, 0.5, 0.99, 1.0, 1.5, 2.0):
        probe.begin()
        assert probe.result(10) == "ok"
    assert len(asked) == 3


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"SETTING = {port}: .*in use"):
            HealthServer(port, "SETTING", alive={}, ready={})


def test_a_client_that_sends_nothing_is_dropped(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health._Handler, "timeout", 1.0)  # enough for those who do send
    server = start(ready={"a": well})
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as silent:
        assert get(server, "/readyz")[0] == 200  # nobody waits for the silent one
        assert silent.recv(1) == b""


def test_closing_gives_the_port_back(start: Start) -> None:
    server = HealthServer(0, "SETTING", alive={}, ready={})
    server.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_a_loop_that_beats_in_time_is_healthy() -> None:
    now = [0.0]
    heart = Heartbeat(clock=lambda: now[0])
    heart.check()
    now[0] = STEP_SECONDS + 5
    with pytest.raises(Stuck, match="5 s ago"):
        heart.check()
    heart.beat()
    heart.check()


def test_a_long_step_is_announced() -> None:
    now = [0.0]
    heart = Heartbeat(clock=lambda: now[0])
    heart.beat(within=1000)
    now[0] = 999
    heart.check()
    heart.beat()
    now[0] = 999 + STEP_SECONDS + 1
    with pytest.raises(Stuck):
        heart.check()


def test_a_beat_costs_next_to_nothing() -> None:
    heart = Heartbeat()
    began = time.thread_time()  # not the clock: other processes may have the core
    for _ in range(10_000):
        heart.beat()
    assert (time.thread_time() - began) / 10_000 < 50e-6
