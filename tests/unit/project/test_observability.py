"""Prometheus and Grafana ask for metrics that there are: every query, alert and annotation."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from deploy import make_dashboard
from nextclick.shared.runtime import metrics
from tests.markdown import anchors

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "nextclick.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

OF_PROMETHEUS = {"job", "instance"}
SUFFIXES = {
    "counter": {"_total": set()},
    "gauge": {"": set()},
    "info": {"_info": {"version"}},
    "summary": {"_sum": set(), "_count": set()},
    "histogram": {"_sum": set(), "_count": set(), "_bucket": {"le"}},
}
"""Of a kind of metric: the endings of its series, and the labels that these have beside its own."""


def series() -> dict[str, set[str]]:
    """Every name that /metrics shows → its labels."""
    known: dict[str, set[str]] = {"up": set()}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            for suffix, labels in SUFFIXES[metric._type].items():
                known[metric._name + suffix] = {*metric._labelnames, *labels}
    return {name: labels | OF_PROMETHEUS for name, labels in known.items()}


def queries() -> Iterator[tuple[str, str]]:
    """Where a query stands, and the query."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"panel {panel['title']} {target['refId']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for rule in RULES:
        yield f"alert {rule['alert']}", rule["expr"]


QUERIES = dict(queries())


def parsed(query: str) -> Any:
    return promql.parse(query.replace("$__rate_interval", "1m"))


def nodes(query: str) -> list[Any]:
    found: list[Any] = []
    promql.walk(parsed(query), found.append)
    return found


@pytest.mark.parametrize("where", QUERIES)
def test_a_query_asks_for_series_and_labels_that_there_are(where: str) -> None:
    known = series()
    asked = [node for node in nodes(QUERIES[where]) if isinstance(node, promql.VectorSelector)]
    assert asked
    for selector in asked:
        assert selector.name in known
        assert {m.name for m in selector.matchers.matchers} <= known[selector.name]
    labels_of_all = set().union(*(known[selector.name] for selector in asked))
    for node in nodes(QUERIES[where]):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= labels_of_all


@pytest.mark.parametrize("where", QUERIES)
def test_counters_are_asked_for_their_rate_and_gauges_are_not(where: str) -> None:
    for node in nodes(QUERIES[where]):
        if isinstance(node, promql.Call) and node.func.name in ("rate", "increase"):
            name = node.args[0].vector_selector.name
            assert name.endswith(("_total", "_sum", "_count", "_bucket")), name
        if isinstance(node, promql.Call) and node.func.name == "histogram_quantile":
            inner = node.args[1]
            assert isinstance(inner, promql.AggregateExpr)
            assert "le" in inner.modifier.labels


@pytest.mark.parametrize("where", QUERIES)
def test_label_values_are_known(where: str) -> None:
    known = {
        "stage": {*re.findall(r"[a-z]+", metrics.STAGE_SECONDS._documentation), "load", "smoke"},
        "check": {"model", "partitions", "redis", "kafka", "event_log", "registry"},
        "outcome": set(metrics.LABEL_VALUES[metrics.RETRAINS]),
        "job": {"worker", "collector", "trainer", "api", "related"},
        "status": {"5.."},
    }
    for node in nodes(QUERIES[where]):
        if isinstance(node, promql.VectorSelector):
            for matcher in node.matchers.matchers:
                assert set(matcher.value.split("|")) <= known[matcher.name]


def test_a_query_for_nothing_would_be_found() -> None:
    """The tests above can fail."""
    (selector,) = [
        n for n in nodes("sum(nextclick_clicks{a='b'})") if isinstance(n, promql.VectorSelector)
    ]
    assert selector.name not in series()
    assert "nextclick_batch_size_total" not in series()


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    text = " ".join(QUERIES.values())
    unseen = {
        metric._name
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase) and metric._name not in text
    }
    assert unseen == {"nextclick_model_loaded_timestamp"}  # the swaps say it


def test_the_dashboard_is_as_its_script_makes_it() -> None:
    written = (GRAFANA / "dashboards" / "nextclick.json").read_text()
    assert written == make_dashboard.text(), make_dashboard.__doc__


def test_the_dashboard_is_well_formed() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert 0 <= at["x"] <= at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, f"{panel['title']} lies on another panel"
        taken |= cells
    for panel in PANELS:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_grafana_finds_the_datasource_and_the_dashboard() -> None:
    (source,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )["datasources"]
    used = [panel["datasource"] for panel in PANELS]
    used += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    used += [annotation["datasource"] for annotation in DASHBOARD["annotations"]["list"]]
    assert all(one == {"type": source["type"], "uid": source["uid"]} for one in used)

    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = dict(volume.split(":")[1::-1] for volume in compose["grafana"]["volumes"])
    (provider,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "dashboards" / "nextclick.yml").read_text()
    )["providers"]
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert mounts["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    name, port = re.fullmatch(r"http://(\w+):(\d+)", source["url"]).groups()  # type: ignore[union-attr]
    assert name in compose
    assert f"127.0.0.1:{port}:{port}" in compose[name]["ports"]


def test_prometheus_asks_every_container_of_every_service() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for job in config["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        assert found["names"] == [job["job_name"]]
        assert found["type"] == "A"
        environment = compose[job["job_name"]]["environment"]
        ports = {v for n, v in environment.items() if n.endswith("METRICS_PORT")}
        assert ports == {str(found["port"])}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in anchors((ROOT / page).read_text())
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]


@pytest.mark.parametrize(
    "what", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_promtool_agrees(what: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, of Debian's package prometheus; the queries were parsed above")
    result = subprocess.run(
        [promtool, *what], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tried() -> None:
    tried = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tried
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in RULES}
