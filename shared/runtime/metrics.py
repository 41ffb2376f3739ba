"""Prometheus metrics, each defined once (docs/metrics.md); shared/runtime/health.py serves them."""

from __future__ import annotations

import math

from prometheus_client import Counter, Gauge, Histogram, Info, Summary

CLICKS = Counter("nextclick_clicks", "Valid clicks read")
ANSWERED_BEFORE = Counter(
    "nextclick_clicks_answered_before",
    "Replayed clicks whose history is no longer stored, so that they are not answered again",
)
SESSIONS_REPLACED = Counter(
    "nextclick_sessions_replaced",
    "Sessions reset because the value at the user's Redis key was not a session",
)
RECOMMENDATIONS = Counter("nextclick_recommendations", "Recommendations acknowledged by Kafka")
DEAD_LETTERS = Counter("nextclick_dead_letters", "Messages that are not clicks", ["reason"])
FALLBACKS = Counter("nextclick_fallbacks", "Answers by popularity instead of the model", ["reason"])
CLICK_ANOMALIES = Counter(
    "nextclick_click_anomalies",
    "Clicks with an unusual event type, time or key; docs/messages.md says how each is handled",
    ["kind"],
)
BATCH_SIZE = Histogram(
    "nextclick_batch_size", "Messages in a micro-batch", buckets=[1, 2, 4, 8, 16, 32, 64, 128, 256]
)
CLICK_TO_ACKNOWLEDGED = Histogram(
    "nextclick_click_to_acknowledged_seconds",
    "From a click's timestamp until its recommendation was acknowledged",
    buckets=[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30, 300],
)
STAGE_SECONDS = Summary(
    "nextclick_stage_seconds",
    "Seconds of the worker's steps per micro-batch: poll, decode, append, score, encode, produce; "
    "and, in parallel to these, queue (exactly_once: wait for the previous transaction), "
    "acknowledge, commit",
    ["stage"],
)
SWAPS = Counter("nextclick_swaps", "Models swapped in, including the first one")
SWAP_FAILURES = Counter("nextclick_swap_failures", "Models that could not be served", ["stage"])
ROLLBACKS = Counter("nextclick_rollbacks", "Versions that the guard rolled back", ["reason"])
LIVE_JUDGED = Counter(
    "nextclick_live_judged", "Lists that were followed by a click of their user", ["version"]
)
LIVE_HITS = Counter("nextclick_live_hits", "Judged lists that held the clicked item", ["version"])
EXPERIMENT_RUNNING = Gauge(
    "nextclick_experiment_running", "1 while this process serves both arms of an experiment"
)
EXPERIMENT_LISTS = Counter("nextclick_experiment_lists", "Lists of an experiment", ["arm"])
EXPERIMENT_JUDGED = Counter(
    "nextclick_experiment_judged",
    "Those of them that a later click of their user followed",
    ["arm"],
)
EXPERIMENT_HITS = Counter(
    "nextclick_experiment_hits", "Judged ones that held the clicked item", ["arm"]
)
DELTAS = Counter("nextclick_deltas", "Deltas published, taken by who serves, or refused", ["what"])
DELTA_MADE = Gauge("nextclick_delta_timestamp", "When the delta that serves was made")
DELTA_SECONDS = Summary("nextclick_delta_seconds", "Time to make and publish a delta")
RETRAINS = Counter("nextclick_retrains", "Retrainings by outcome", ["outcome"])
GATE_REFUSALS = Counter("nextclick_gate_refusals", "Candidates not published", ["reason"])
LEFT_OUT = Gauge(
    "nextclick_retrain_clicks_left_out",
    "Clicks of the last retraining's window that did not count",
    ["reason"],
)
BAD_ITEMS = Counter("nextclick_bad_items", "Messages on the items topic that were refused")
ITEMS_WITHHELD = Gauge(
    "nextclick_items_withheld", "Items that are in no list: retired, or not available"
)
RELATED_MESSAGES = Counter(
    "nextclick_related_messages", "Messages sent to the topic of related items"
)
REMOVED_UNREAD = Counter(
    "nextclick_clicks_removed_unread",
    "Messages that Kafka removed before this process read them: retention, or deleted records",
)
LOGGED_CLICKS = Counter("nextclick_logged_clicks", "Clicks made durable in the event log")
FORGOTTEN_CLICKS = Counter(
    "nextclick_forgotten_clicks", "Clicks from before their user was forgotten: not logged"
)
MODEL = Info("nextclick_model", "The served model")
MODEL_LOADED = Gauge("nextclick_model_loaded_timestamp", "When the served model was swapped in")
MODEL_AGE = Gauge("nextclick_model_age_seconds", "Since the served model was published")
MODEL_AGE.set(math.nan)  # until there is one
CONSUMER_LAG = Gauge(
    "nextclick_consumer_lag",
    "Clicks not committed yet, of this process's partitions",
    ["partition"],
)
HTTP_REQUESTS = Counter("nextclick_http_requests", "Requests answered", ["route", "status"])
HTTP_SECONDS = Histogram(
    "nextclick_http_request_seconds",
    "From a request's arrival until its answer was handed over",
    ["route"],
    buckets=[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5],
)
READY = Gauge("nextclick_ready", "1 if a check of /readyz is passed, else 0", ["check"])

LABEL_VALUES = {
    CLICK_ANOMALIES: (
        "event_type_ignored",
        "event_type_unknown",
        "time_in_seconds",
        "time_in_microseconds",
        "time_in_nanoseconds",
        "time_behind",
        "time_ahead",
        "no_key",
        "key_is_not_user_id",
        "user_on_several_partitions",
    ),
    DEAD_LETTERS: ("empty", "oversized", "not_json", "framed", "invalid"),
    FALLBACKS: ("unknown_items", "not_finite", "cold_start", "sessions_unavailable"),
    SWAP_FAILURES: ("load", "smoke", "warm_up"),
    ROLLBACKS: ("not_finite", "failed", "slower", "worse"),
    EXPERIMENT_LISTS: ("a", "b"),
    EXPERIMENT_JUDGED: ("a", "b"),
    EXPERIMENT_HITS: ("a", "b"),
    DELTAS: ("published", "taken", "refused"),
    RETRAINS: ("published", "refused", "lost"),
    GATE_REFUSALS: (
        "worse",
        "segment",
        "baseline",
        "same",
        "calibration",
        "not_finite",
        "no_cases",
        "nothing_to_learn",
    ),
    LEFT_OUT: ("rate", "share"),
}
"""The known values of labels; their metrics are created at 0. If a counter first appeared at 1,
Prometheus would see no increase, and the first rollback would raise no alert."""

for _metric, _values in LABEL_VALUES.items():
    for _value in _values:
        _metric.labels(_value)
