"""A real Prometheus scrapes a real worker and trainer: every panel's query gives data, and when
Redis dies, the alert for it comes up."""

from __future__ import annotations

import json
import math
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.make_dashboard import ROWS
from nextclick.shared import embedded
from nextclick.shared.registry import Registry
from nextclick.shared.runtime import processes
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from tests.conftest import Launch
from tests.integration.traffic import Answers, Shop, make_clicks, publish_model
from tests.waiting import until

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"
NOTHING_IS_WRONG_YET = "Checks that fail"
EXPERIMENT = "Live experiment, HR@10 by arm"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prometheus:
    """The configuration that we ship, but for where the processes are and how often it looks."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        binary = shutil.which("prometheus")
        assert binary is not None
        config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(SHIPPED / "alerts.yml")]
        jobs = [job for job in config["scrape_configs"] if job["job_name"] in ports]
        for job in jobs:
            del job["dns_sd_configs"]
            job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
        config["scrape_configs"] = jobs
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self._url = f"127.0.0.1:{free_port()}"
        self.log = folder / "prometheus.log"
        self.process = processes.spawn(
            [
                binary,
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={self._url}",
            ],
            self.log,
        )

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self._url}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def up(self) -> bool:
        try:
            return bool(self._get("query?query=1"))
        except OSError:
            return False

    def values(self, query: str) -> list[float]:
        """The finite values that a query gives now."""
        query = query.replace("$__rate_interval", "10s")
        found = self._get("query?" + urllib.parse.urlencode({"query": query}))["result"]
        values = [float(one["value"][1]) for one in found]
        return [value for value in values if math.isfinite(value)]

    def alerts(self) -> set[str]:
        """Alerts that are pending or firing."""
        return {alert["labels"]["alertname"] for alert in self._get("alerts")["alerts"]}


@pytest.fixture
def ports() -> dict[str, int]:
    return {"worker": free_port(), "trainer": free_port()}


@pytest.fixture
def prometheus(tmp_path: Path, ports: dict[str, int]) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("needs the command prometheus, of Debian's package of that name")
    server = Prometheus(tmp_path, ports)
    yield server
    processes.stop(server.process)


@pytest.mark.long
def test_every_panel_gets_data_and_an_outage_raises_its_alert(
    kafka: KafkaSettings,
    answers: Answers,
    launch: Launch,
    prometheus: Prometheus,
    ports: dict[str, int],
    tmp_path: Path,
) -> None:
    other = publish_model(tmp_path / "registry", seed=2)
    publish_model(tmp_path / "registry", seed=1)
    redis = embedded.start_redis(tmp_path / "redis")
    try:
        launch(
            "worker",
            **{
                f"{PREFIX}WORKER__METRICS_PORT": str(ports["worker"]),
                f"{PREFIX}REDIS__URL": f"redis://{redis.address}/0",
            },
        )
        launch(
            "trainer",
            **{
                f"{PREFIX}TRAINER__METRICS_PORT": str(ports["trainer"]),
                f"{PREFIX}TRAINER__DELTA_SECONDS": "0.5",
            },
        )
        shop = Shop(kafka)
        clicks = iter(make_clicks(20_000))
        queries = {
            f"{panel.title}: {query}"
            for row in (row for title, row in ROWS.items() if title != "HTTP")
            for panel in row
            for query in panel.queries
            if panel.title not in (NOTHING_IS_WRONG_YET, EXPERIMENT)
        }

        def every_query_has_data() -> bool:
            shop.send([next(clicks) for _ in range(20)])
            shop.send_raw([(b"k", b"no click")])
            missing = {q for q in queries if not prometheus.values(q.partition(": ")[2])}
            empty.clear()
            empty.update(missing)
            return not missing

        empty: set[str] = set()
        until(prometheus.up, "Prometheus answers")
        try:
            until(every_query_has_data, "data", 60)
        except AssertionError:
            raise AssertionError(f"no data for {sorted(empty)}") from None
        Registry(str(tmp_path / "registry")).start_experiment("one", "current", other, 0.5)
        (arms,) = [panel for row in ROWS.values() for panel in row if panel.title == EXPERIMENT]
        queries = {f"{EXPERIMENT}: {query}" for query in arms.queries}
        until(every_query_has_data, "data of an experiment", 60)
        (checks,) = [
            panel for row in ROWS.values() for panel in row if panel.title == NOTHING_IS_WRONG_YET
        ]
        (failing,) = checks.queries
        until(lambda: not prometheus.values(failing), "all is well", 20)
        assert "NextclickRedisLost" not in prometheus.alerts()
    finally:
        redis.kill()
    until(lambda: "NextclickRedisLost" in prometheus.alerts(), "the alert", 30)
    assert "NextclickBrokerLost" not in prometheus.alerts()
    assert prometheus.values(failing)
