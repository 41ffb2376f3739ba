"""Load test of the HTTP service: `python -m nextclick.bench.http`.

Requests at a given rate come from an open-loop client of ours (bench/http_client.py); as many as
possible over 1, 4 and 16 connections from wrk (https://github.com/wg/wrk, Debian's package `wrk`).
They are of a thousand users and histories in turn: a shop asks for no list twice. Service, load and
servers share this machine.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from nextclick.bench.models import random_checkpoint
from nextclick.bench.traffic import item_id
from nextclick.services.demo import local_servers
from nextclick.services.demo.local_servers import Processes
from nextclick.shared.redis import RedisSessions
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX
from nextclick.shared.schemas import Click

USERS = 1000
CONNECTIONS = (1, 4, 16)
_HISTORY = '{"history": ["ITEM", "ITEM", "ITEM"], "k": 10}'
_CLICK = '{"user_id": "USER", "item_id": "ITEM"}'
REQUESTS: dict[str, tuple[str, str]] = {
    "a user's list": ("/recommendations/USER?k=10", ""),
    "20 items, unseen only": ("/recommendations/USER?k=20&exclude_seen=true", ""),
    "a history's list": ("/recommendations", _HISTORY),
    "a click": ("/clicks", _CLICK),
    "a click and its list": ("/clicks?recommend=true", _CLICK),
}
"""Name → path, and the body of a POST; USER and ITEM stand for any of them."""
PERCENTILES = ("p50", "p90", "p99")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=17_376)
    parser.add_argument("--rates", default="200,1000", help="requests a second")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1, help="of the service, on one port")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: Debian's package is called wrk")
    folder = Path(tempfile.mkdtemp(prefix="nextclick-http-"))
    try:
        with local_servers.servers(folder) as environ:
            _prepare(environ, options.items)
            services = Processes(folder, environ)
            try:
                address = _start(services, options.processes)
                _measure(address, options)
                services.stop_all()
            finally:
                services.kill_all()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(services: Processes, count: int) -> str:
    """Start the service, several on the port that the first one gets; returns their URL."""
    environ = {f"{PREFIX}API__PORT": "0", f"{PREFIX}API__REUSE_PORT": "true"}
    address = ""
    for number in range(count):
        services.start(name := f"api-{number}", ["api"], environ)
        address = services.wait_for(name, r"listening on (http://[^\s\"]+)")
        environ[f"{PREFIX}API__PORT"] = address.rpartition(":")[2]
    for number in range(count):
        services.wait_for(f"api-{number}", r"(serving model)")
    return address


def _prepare(environ: dict[str, str], items: int) -> None:
    """Publish a model with random weights, and store a session of seven clicks for each user."""
    checkpoint = random_checkpoint(items)
    Registry(environ[f"{PREFIX}REGISTRY__URL"]).publish(checkpoint)
    sessions = RedisSessions(
        environ[f"{PREFIX}REDIS__URL"],
        key_prefix="nextclick:session:",
        gap_ms=0,
        ttl_seconds=86_400,
        timeout_seconds=5,
    )
    ids = checkpoint.vocabulary.item_ids
    rng = np.random.default_rng(0)
    sessions.append(
        [
            Click(
                event_id=uuid.uuid4().hex,
                user_id=str(user),
                item_id=ids[rng.integers(len(ids))],
                timestamp=place,
            )
            for user in range(USERS)
            for place in range(7)
        ]
    )
    sessions.close()


def _measure(address: str, options: argparse.Namespace) -> None:
    table = Table("request", "load", "answered /s", "p50 ms", "p90 ms", "p99 ms", "not 2xx")
    for name, (path, body) in REQUESTS.items():
        requests = _requests(path, body, options.items)
        for rate in map(int, options.rates.split(",")):
            figures = _open_loop(address, requests, rate, options.seconds)
            table.add_row(name, f"{rate:,} /s", *figures)
        for connections in CONNECTIONS:
            figures = _closed_loop(address, requests, connections, options.seconds)
            table.add_row(name, f"{connections} connections", *figures)
    Console(width=110).print(table)


def _requests(path: str, body: str, items: int) -> list[tuple[str, str]]:
    """As many requests as there are users, each with a user and items drawn at random."""
    rng = np.random.default_rng(0)

    def drawn(match: re.Match[str]) -> str:
        user = match[0] == "USER"
        return str(rng.integers(USERS)) if user else item_id(int(rng.integers(items)) + 1)

    def filled(text: str) -> str:
        return re.sub("USER|ITEM", drawn, text)

    return [(filled(path), filled(body)) for _ in range(USERS)]


def _open_loop(address: str, requests: list[tuple[str, str]], rate: int, seconds: int) -> list[str]:
    command = [sys.executable, "-m", "nextclick.bench.http_client", address]
    command += ["--rate", str(rate), "--seconds", str(seconds)]
    output = subprocess.run(
        command, input=json.dumps(requests), capture_output=True, text=True, check=True
    ).stdout
    figures = json.loads(output)
    latencies = [f"{figures[f'{p}_ms']:.1f}" for p in PERCENTILES]
    return [f"{figures['answered'] / seconds:,.0f}", *latencies, str(figures["failures"])]


def _closed_loop(
    address: str, requests: list[tuple[str, str]], connections: int, seconds: int
) -> list[str]:
    paths, bodies = (",".join(map(json.dumps, column)) for column in zip(*requests, strict=True))
    lua = f"local paths, bodies, place = {{{paths}}}, {{{bodies}}}, 0\n"
    lua += "function request() place = place % #paths + 1; local body = bodies[place]\n"
    lua += "return wrk.format(body ~= '' and 'POST' or 'GET', paths[place], nil, body) end\n"
    lua += "wrk.headers['Content-Type'] = 'application/json'"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(lua)
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        command += ["-s", script.name, address]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert rate is not None, output
    taken = dict(re.findall(r"(\d+)%\s+([\d.]+[um]?s)", output))
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    latencies = [f"{_milliseconds(taken[p[1:]]):.1f}" for p in PERCENTILES]
    return [f"{float(rate[1]):,.0f}", *latencies, bad[1] if bad else "0"]


def _milliseconds(text: str) -> float:
    """`980.00us`, `1.52ms`, `2.01s`."""
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


if __name__ == "__main__":
    main()
