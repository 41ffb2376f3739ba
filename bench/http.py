"""Load test of the HTTP service: `python -m nextclick.bench.http`.

The service is pinned to one core, and the load tool `hey` (https://github.com/rakyll/hey, Debian's
package `hey`) to another. The connections of `hey` send at the same moments, so requests come in
bursts of that size.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from nextclick.bench.models import random_checkpoint
from nextclick.services.demo import local_servers
from nextclick.services.demo.local_servers import Processes
from nextclick.shared.redis import RedisSessions
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX
from nextclick.shared.schemas import Click

USERS = 1000
_JSON = ["-m", "POST", "-T", "application/json", "-d"]
REQUESTS: dict[str, tuple[str, list[str]]] = {
    "a user's list": ("/recommendations/5?k=10", []),
    "20 items, unseen only": ("/recommendations/5?k=20&exclude_seen=true", []),
    "a history's list": (
        "/recommendations",
        [*_JSON, '{"history": ["item-1", "item-7", "item-9"], "k": 10}'],
    ),
    "a click": ("/clicks", [*_JSON, '{"user_id": "5", "item_id": "item-7"}']),
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=1000, help="requests a second")
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    if shutil.which("hey") is None:
        raise SystemExit("hey is not installed: Debian's package is called hey")
    folder = Path(tempfile.mkdtemp(prefix="nextclick-http-"))
    try:
        with local_servers.servers(folder) as environ:
            _prepare(environ, options.items)
            services = Processes(folder, environ)
            try:
                services.start("api", ["api"], {f"{PREFIX}API__PORT": "0"})
                address = services.wait_for("api", r"listening on (http://[^\s\"]+)")
                services.wait_for("api", r"(serving model)")
                os.sched_setaffinity(services.pid("api"), {0})
                for thread in Path(f"/proc/{services.pid('api')}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), {0})
                _measure(address, options)
                services.stop_all()
            finally:
                services.kill_all()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    table = Table("request", "sent /s", "answered /s", "p50 ms", "p90 ms", "p99 ms", "not 2xx")
    for rate in (options.rate, 0):
        for name, (path, arguments) in REQUESTS.items():
            paced = ["-q", str(rate / options.connections)] if rate else []
            output = subprocess.run(
                [
                    *("taskset", "-c", str((os.cpu_count() or 1) - 1), "hey"),
                    *("-z", f"{options.seconds}s", "-c", str(options.connections)),
                    *(*paced, *arguments, address + path),
                ],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            found = re.search(r"Requests/sec:\s+([\d.]+)", output)
            assert found is not None, output
            percentiles = dict(re.findall(r"(\d+)%+ in ([\d.]+) secs", output))
            bad = sum(int(n) for code, n in re.findall(r"\[(\d+)\]\s+(\d+) responses", output)
                      if not code.startswith("2"))  # fmt: skip
            table.add_row(
                name,
                str(rate or "maximum"),
                f"{float(found[1]):,.0f}",
                *(f"{1000 * float(percentiles[p]):.1f}" for p in ("50", "90", "99")),
                str(bad),
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
