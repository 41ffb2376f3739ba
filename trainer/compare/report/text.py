"""Formats numbers for all forms of the report."""

from __future__ import annotations

from nextclick.trainer.compare.report.document import Difference, MethodReport

QUALITY = {
    "hr@5": "HR@5",
    "hr@10": "HR@10",
    "hr@20": "HR@20",
    "mrr@20": "MRR@20",
    "ndcg@10": "NDCG@10",
    "auc": "AUC",
}
CALIBRATION = {
    "ece": "ECE",
    "ece_noise": "noise of it",
    "ece_before": "ECE before calibration",
}
COST = {
    "coverage": "coverage",
    "fit_seconds": "fit, s",
    "ms_single": "one query, ms",
    "ms_batched": "in batches, ms",
}
_IN_PERCENT = {"hr@5", "hr@10", "hr@20", "mrr@20", "ndcg@10", "coverage", *CALIBRATION}


def value(method: MethodReport, metric: str) -> str:
    """The mean of a metric as text: shares in percent, times in their unit; – if unknown."""
    estimate = method.metrics.get(metric)
    return "–" if estimate is None else _number(metric, estimate.mean)


def noise(method: MethodReport, metric: str) -> list[str]:
    """The standard error over cases, and the standard deviation over seeds, if known."""
    estimate = method.metrics.get(metric)
    parts: list[str] = []
    if estimate is None:
        return parts
    if estimate.standard_error is not None:
        parts.append(f"±{_number(metric, estimate.standard_error)}")
    if estimate.sd is not None:
        parts.append(f"sd {_number(metric, estimate.sd)}")
    return parts


def versus(method: MethodReport, metric: str) -> str:
    """The paired difference to the best other method in points, with its interval."""
    difference = method.versus.get(metric)
    return "–" if difference is None else points(difference)


def points(difference: Difference) -> str:
    """A difference of shares in percentage points: +1.23 (+1.00 … +1.46)."""
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.difference:+.2f} ({low:+.2f} … {high:+.2f})"


def fact(number: int | float | str) -> str:
    """A statistic of the data set as text; floats are shares."""
    if isinstance(number, float):
        return f"{100 * number:.2f} %"
    return f"{number:,}" if isinstance(number, int) else number


def _number(metric: str, number: float) -> str:
    if metric in _IN_PERCENT:
        return f"{100 * number:.2f}"
    if metric == "auc":
        return f"{number:.4f}"
    if number < 100:
        return f"{number:.2f}" if number >= 0.005 else "<0.01"
    return f"{number:,.0f}"
