"""The demo from its start to Ctrl-C, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from nextclick.shared.runtime import processes
from tests.waiting import until

SHORT_PAST = """
from nextclick.__main__ import main
from nextclick.services.demo import demo

demo.BOOTSTRAP_INTERACTIONS["missions"], demo.BOOTSTRAP_EPOCHS = 12_000, 1
main()
"""


@pytest.mark.long
def test_the_demo_swaps_answers_everything_and_cleans_up(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    log = tmp_path / "demo.log"
    out = tmp_path / "out.json"
    arguments = ["--seconds", "0", "--rate", "150", "--workers", "2", "--json", str(out)]
    demo = processes.spawn(
        [sys.executable, "-m", "nextclick", "demo", *arguments],
        log,
        environ={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        until(
            lambda: "swaps 1" in log.read_text() or demo.poll() is not None,
            "a swap in the demo",
            seconds=300,
        )
        demo.send_signal(signal.SIGINT)
        assert demo.wait(90) == 0, log.read_text()[-3000:]
    finally:
        demo.kill()
        demo.wait()

    summary = json.loads(out.read_text())
    assert summary["missing"] == 0
    assert summary["dead_lettered"] == 0
    assert summary["clicks_sent"] > 1000
    assert summary["recommendations_received"] - summary["duplicates"] == summary["clicks_sent"]
    assert summary["swaps"] >= 1
    assert len(summary["model_versions"]) == summary["swaps"] + 1
    rates = summary["hit_rate_at_10"]
    assert rates["popularity"] + 0.3 < rates["model"]
    # Nothing can know more than the ceiling does; on these clicks it may have been luckier.
    assert rates["model"] <= rates["ceiling"] + 0.02
    assert rates["popularity"] + 0.35 < rates["ceiling"] < 0.95
    assert set(summary["latency_ms"]) == {"p50", "p90", "p99"}
    assert list(temporary.iterdir()) == []
    assert _mentioning(str(temporary)) == []


@pytest.mark.long
def test_a_worker_that_dies_ends_the_demo_with_its_summary(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    log = tmp_path / "demo.log"
    demo = processes.spawn(
        [sys.executable, "-c", SHORT_PAST, "demo", "--seconds", "0"],
        log,
        environ={**os.environ, "TMPDIR": str(temporary)},
    )
    try:
        clicked = re.compile(r"^clicks/s [1-9]", re.MULTILINE)
        until(lambda: clicked.search(log.read_text()) or demo.poll() is not None, "clicks", 300)
        os.kill(_child(demo.pid, "worker"), signal.SIGKILL)
        assert demo.wait(90) == 2, log.read_text()[-3000:]
    finally:
        demo.kill()
        demo.wait()
    *_, last = log.read_text().splitlines()
    assert last == "nextclick: the worker-1 process died with exit code -9"
    assert "│ clicks sent" in log.read_text()
    assert list(temporary.iterdir()) == []
    assert _mentioning(str(temporary)) == []


def _child(parent: int, command: str) -> int:
    """The process of a nextclick command that `parent` has started."""
    for process in Path("/proc").glob("[0-9]*"):
        words = (process / "cmdline").read_bytes().split(b"\0")
        if command.encode() in words:
            stat = (process / "stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) == parent:
                return int(process.name)
    raise AssertionError(f"no {command} of {parent}")


def _mentioning(text: str) -> list[str]:
    """Command lines of running processes that contain `text`."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command and "pytest" not in command:
            found.append(command)
    return found
