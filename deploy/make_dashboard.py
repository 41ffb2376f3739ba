"""Print the Grafana dashboard.

python -m deploy.make_dashboard > deploy/grafana/dashboards/nextclick.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24
HEIGHT = 7


@dataclass(frozen=True)
class Panel:
    """A graph, or with `stat` one number. Queries: PromQL → legend."""

    title: str
    unit: str
    queries: dict[str, str]
    about: str = ""
    stat: bool = False


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Events a second over all processes."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{where}[$__rate_interval]))"


def increase(metric: str, by: str) -> str:
    """Events in each step of a graph."""
    return f"sum by ({by}) (increase({metric}[$__rate_interval]))"


def percentiles(histogram: str) -> dict[str, str]:
    """p50, p90 and p99 of a histogram over all processes."""
    buckets = rate(f"{histogram}_bucket", "le")
    return {f"histogram_quantile({q}, {buckets})": f"p{q * 100:g}" for q in (0.5, 0.9, 0.99)}


def mean(metric: str, by: str) -> str:
    """Sum over count, of a summary or histogram."""
    return f"{rate(f'{metric}_sum', by)} / {rate(f'{metric}_count', by)}"


LAG = 'nextclick_consumer_lag{job="worker"}'

ROWS: dict[str, list[Panel]] = {
    "Now": [
        Panel("Clicks", "cps", {rate("nextclick_clicks_total"): ""}, stat=True),
        Panel("Lag", "short", {f"sum({LAG})": ""}, "clicks that are not answered yet", True),
        Panel(
            "p99, click to acknowledged",
            "s",
            {list(percentiles("nextclick_click_to_acknowledged_seconds"))[2]: ""},
            "from a click's own timestamp",
            True,
        ),
        Panel("Model's age", "s", {"max(nextclick_model_age_seconds)": ""}, stat=True),
        Panel(
            "Not ready",
            "short",
            {
                'count(up{job=~"worker|collector|trainer|api"} == 0 or nextclick_ready == 0) '
                "or vector(0)": ""
            },
            "checks that fail and processes that do not answer",
            True,
        ),
        Panel("Workers", "short", {'sum(up{job="worker"})': ""}, stat=True),
    ],
    "Traffic": [
        Panel(
            "Clicks and recommendations",
            "cps",
            {
                rate("nextclick_clicks_total"): "clicks",
                rate("nextclick_recommendations_total"): "recommendations",
                rate("nextclick_clicks_answered_before_total"): "read again, not answered again",
            },
        ),
        Panel(
            "Click to acknowledged",
            "s",
            percentiles("nextclick_click_to_acknowledged_seconds"),
            "From a click's own timestamp; between two bucket bounds it is interpolated.",
        ),
        Panel(
            "Lag by partition",
            "short",
            {f"sum by (partition) ({LAG})": "{{partition}}", f"sum({LAG})": "all"},
        ),
    ],
    "Worker": [
        Panel(
            "Seconds of a micro-batch, by stage",
            "s",
            {mean("nextclick_stage_seconds", "stage"): "{{stage}}"},
            "poll waits for clicks; acknowledge and commit go on beside the other stages.",
        ),
        Panel(
            "Waiting for Redis and Kafka",
            "percentunit",
            {
                rate("nextclick_stage_seconds_sum", "stage", '{stage="append"}'): "Redis: append",
                rate(
                    "nextclick_stage_seconds_sum", "stage", '{stage=~"acknowledge|commit"}'
                ): "Kafka: {{stage}}",
            },
            "Share of the time, summed over the workers. Beside the serving thread but for append.",
        ),
        Panel("Messages in a micro-batch", "short", percentiles("nextclick_batch_size")),
    ],
    "Model": [
        Panel(
            "Live HR@10 by version",
            "percentunit",
            {
                f"{rate('nextclick_live_hits_total', 'version')} / "
                f"{rate('nextclick_live_judged_total', 'version')}": "{{version}}"
            },
            "Share of clicks that were among the ten items recommended just before.",
        ),
        Panel(
            "Workers by version",
            "short",
            {"count by (version) (nextclick_model_info)": "{{version}}"},
        ),
        Panel("Model's age", "s", {"max(nextclick_model_age_seconds)": "oldest served"}),
        Panel(
            "Swaps, failures and rollbacks",
            "short",
            {
                "sum(increase(nextclick_swaps_total[$__rate_interval]))": "swapped in",
                increase("nextclick_swap_failures_total", "stage"): "cannot serve: {{stage}}",
                increase("nextclick_rollbacks_total", "reason"): "rolled back: {{reason}}",
            },
        ),
        Panel(
            "Retrainings",
            "short",
            {
                increase("nextclick_retrains_total", "outcome"): "{{outcome}}",
                increase("nextclick_gate_refusals_total", "reason"): "refused: {{reason}}",
            },
        ),
        Panel(
            "Deltas",
            "short",
            {
                increase("nextclick_deltas_total", "what"): "{{what}}",
                "time() - max(nextclick_delta_timestamp > 0)": "age of the one that serves, s",
                "sum(rate(nextclick_delta_seconds_sum[$__rate_interval])) / "
                "sum(rate(nextclick_delta_seconds_count[$__rate_interval]))": "to make one, s",
            },
            "What is learned between retrainings, if that is on.",
        ),
        Panel(
            "Live experiment, HR@10 by arm",
            "percentunit",
            {
                f"{rate('nextclick_experiment_hits_total', 'arm')} / "
                f"{rate('nextclick_experiment_judged_total', 'arm')}": "{{arm}}"
            },
            "By clicks, and without an interval: `nextclick experiment report` says what it means.",
        ),
        Panel(
            "Live experiment, lists by arm",
            "cps",
            {
                rate("nextclick_experiment_lists_total", "arm"): "{{arm}}",
                "sum(nextclick_experiment_running)": "workers that take part",
            },
        ),
        Panel(
            "Event log",
            "cps",
            {
                rate("nextclick_logged_clicks_total"): "clicks made durable",
                rate("nextclick_forgotten_clicks_total"): "left out: of forgotten users",
            },
        ),
        Panel(
            "Clicks that did not count",
            "short",
            {"max by (reason) (nextclick_retrain_clicks_left_out)": "{{reason}}"},
            "Of the last retraining's window: too many of one user.",
        ),
    ],
    "What went elsewhere": [
        Panel(
            "Dead letters", "cps", {rate("nextclick_dead_letters_total", "reason"): "{{reason}}"}
        ),
        Panel(
            "Unusual clicks", "cps", {rate("nextclick_click_anomalies_total", "kind"): "{{kind}}"}
        ),
        Panel(
            "Answers by popularity",
            "cps",
            {rate("nextclick_fallbacks_total", "reason"): "{{reason}}"},
        ),
        Panel(
            "Lost, replaced",
            "short",
            {
                increase("nextclick_clicks_removed_unread_total", "job"): "{{job}}: removed unread",
                increase("nextclick_sessions_replaced_total", "job"): "sessions replaced",
            },
        ),
        Panel(
            "Items",
            "short",
            {
                "max by (job) (nextclick_items_withheld)": "{{job}}: in no list",
                increase("nextclick_bad_items_total", "job"): "{{job}}: messages refused",
                increase("nextclick_related_messages_total", "job"): "{{job}}: lists sent",
            },
        ),
        Panel(
            "Checks that fail",
            "short",
            {"count by (job, check) (nextclick_ready == 0)": "{{job}}: {{check}}"},
        ),
    ],
    "HTTP": [
        Panel(
            "Requests",
            "reqps",
            {rate("nextclick_http_requests_total", "route, status"): "{{route}} {{status}}"},
        ),
        Panel(
            "Seconds of a request, p99",
            "s",
            {
                "histogram_quantile(0.99, "
                + rate("nextclick_http_request_seconds_bucket", "le, route")
                + ")": "{{route}}"
            },
        ),
    ],
}

ANNOTATIONS = {
    "Swaps": ("sum(increase(nextclick_swaps_total[1m])) > 0", "blue", "a model was swapped in"),
    "Rollbacks": (
        "sum by (reason) (increase(nextclick_rollbacks_total[1m])) > 0",
        "red",
        "rolled back: {{reason}}",
    ),
    "Refusals": (
        "sum by (reason) (increase(nextclick_gate_refusals_total[1m])) > 0",
        "orange",
        "the gate refused: {{reason}}",
    ),
}


def dashboard() -> dict[str, Any]:
    """The whole dashboard as Grafana takes it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(_at(len(panels) + 1, 0, y, COLUMNS, 1) | {"type": "row", "title": title})
        panels[-1] |= {"collapsed": False, "panels": []}
        y += 1
        across = len(row) if row[0].stat else min(len(row), 3)
        height = 4 if row[0].stat else HEIGHT
        width = COLUMNS // across
        for number, panel in enumerate(row):
            column, line = number % across, number // across
            place = _at(len(panels) + 1, column * width, y + line * height, width, height)
            panels.append(place | _panel(panel))
        y += height * -(-len(row) // across)
    return {
        "uid": "nextclick",
        "title": "nextclick",
        "tags": ["nextclick"],
        "timezone": "browser",
        "schemaVersion": 39,
        "editable": False,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "annotations": {"list": [_annotation(name) for name in ANNOTATIONS]},
        "templating": {"list": []},
        "panels": panels,
    }


def _at(number: int, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": legend or "__auto",
            }
            for number, (query, legend) in enumerate(panel.queries.items())
        ],
    }


def _annotation(name: str) -> dict[str, Any]:
    expr, colour, text = ANNOTATIONS[name]
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "expr": expr,
        "iconColor": colour,
        "titleFormat": text,
        "step": "15s",
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    print(text(), end="")
