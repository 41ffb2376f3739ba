"""A worker with nothing to do does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nextclick.shared.runtime.settings import KafkaSettings
from tests.conftest import Launch
from tests.integration.traffic import publish_model
from tests.waiting import until

WATCHED_SECONDS = 5.0


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_worker_takes_no_processor_time(
    kafka: KafkaSettings, launch: Launch, tmp_path: Path
) -> None:
    publish_model(tmp_path / "registry", seed=1)
    worker = launch("worker")
    log = tmp_path / "worker-0.log"
    until(lambda: "assigned partitions [0" in log.read_text(), "partitions")

    began = _cpu_seconds(worker.pid)
    with pytest.raises(subprocess.TimeoutExpired):  # it goes on
        worker.wait(WATCHED_SECONDS)
    assert _cpu_seconds(worker.pid) - began < 0.02 * WATCHED_SECONDS


def _cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
