from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka.lag import LagWatch
from nextclick.shared.registry.slot import _set_metrics
from nextclick.shared.runtime import metrics

DOCS = Path(__file__).parents[4] / "docs" / "metrics.md"
SUFFIX = {"counter": "_total", "info": "_info"}


def test_the_page_lists_what_is_registered_and_nothing_else() -> None:
    registered = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            kind = metric._type
            labels = ["version"] if kind == "info" else list(metric._labelnames)
            name = metric._name + SUFFIX.get(kind, "")
            registered[name] = ("gauge" if kind == "info" else kind, labels)
    row = re.compile(r"\| `(nextclick_\w+)` \| (\w+) \|([^|]*)\|")
    listed = {
        name: (kind, re.findall(r"`(\w+)`", labels))
        for name, kind, labels in row.findall(DOCS.read_text())
    }
    assert listed == registered


def samples(metric: MetricWrapperBase) -> dict[tuple[str, ...], float]:
    return {tuple(s.labels.values()): s.value for m in metric.collect() for s in m.samples}


def test_the_page_lists_the_values_that_are_there_from_the_start() -> None:
    rows = {
        line.split("`")[1]: line for line in DOCS.read_text().split("\n") if "`nextclick" in line
    }
    for metric, values in metrics.LABEL_VALUES.items():
        row = rows[metric._name + SUFFIX.get(metric._type, "")]
        for value in values:
            assert re.search(rf"`{value}`", row), f"{value} is not in {row}"
        assert {values[0] for values in samples(metric)} >= set(values)


class Monitor:
    def __init__(self) -> None:
        self.now: dict[int, int] | None = {}

    def lags(self) -> dict[int, int]:
        if self.now is None:
            raise Unavailable("Kafka is away")
        return self.now


def test_the_lag_is_that_of_our_own_partitions() -> None:
    monitor, mine = Monitor(), {0, 1}
    watch = LagWatch(monitor, lambda: mine)  # type: ignore[arg-type]
    monitor.now = {0: 5, 1: 6, 2: 7}
    watch.measure()
    assert samples(metrics.CONSUMER_LAG) == {("0",): 5, ("1",): 6}
    mine -= {0}
    watch.measure()
    assert samples(metrics.CONSUMER_LAG) == {("1",): 6}
    monitor.now = None
    watch.measure()
    assert samples(metrics.CONSUMER_LAG) == {}, "an old lag would be taken for a new one"


def test_one_model_is_shown_with_its_age() -> None:
    for version in ("20200101T000000-aaaa", "20200102T000000-bbbb"):
        _set_metrics(version)
    assert samples(metrics.MODEL) == {("20200102T000000-bbbb",): 1}
    (age,) = samples(metrics.MODEL_AGE).values()
    assert age > 100_000_000
    _set_metrics("v1")  # a name that does not tell when: counted from now
    (age,) = samples(metrics.MODEL_AGE).values()
    assert 0 <= age < 60
