"""Computes a report from ranks: means with errors, paired differences, and groups of cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from nextclick.shared.data_problems import Problem
from nextclick.shared.windows import HISTORY_LENGTH, PADDING, IntArray
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.ceiling import Ceiling
from nextclick.trainer.compare.report.compare import Result, Run
from nextclick.trainer.compare.report.document import (
    Bucket,
    CurvePoint,
    Difference,
    Estimate,
    MethodReport,
    ProblemReport,
    Report,
)
from nextclick.trainer.evaluate import (
    METRICS,
    Evaluation,
    most_frequent_types,
    paired_interval,
)
from nextclick.trainer.fit.loop import Epoch

Values = npt.NDArray[np.float64]

COMPARED = ("hr@20", "mrr@20")
LONGEST_LIST = 50
BANDS = ("head", "2nd", "3rd", "4th", "tail")
"""Names of the fifths of the clicks, by popularity of the item."""


def summarise(
    benchmark: Benchmark, results: Sequence[Result], seeds: list[int], environment: dict[str, str]
) -> Report:
    """Build the report of a comparison."""
    per_case = {r.name: {m: _over_seeds(r.runs, m) for m in COMPARED} for r in results if r.runs}
    lengths, length_labels = by_history_length(benchmark.clicks_before)
    bands, band_labels = by_popularity(benchmark.cases.targets, benchmark.popularity)
    type_labels = most_frequent_types(benchmark.event_types)
    types = np.array([_index(type_labels, name) for name in benchmark.event_types], np.int64)
    methods = [
        MethodReport(
            name=result.name,
            metrics=_metrics(result.runs),
            versus={
                metric: difference
                for metric in COMPARED
                if (difference := _versus(result.name, metric, per_case, benchmark.sessions))
            },
            hr_at=[
                float(np.mean([run.evaluation.hits(k).mean() for run in result.runs]))
                for k in range(1, LONGEST_LIST + 1)
            ],
            by_history_length=_buckets(per_case[result.name], lengths, length_labels),
            by_popularity=_buckets(per_case[result.name], bands, band_labels),
            by_event_type=_buckets(per_case[result.name], types, type_labels),
            curve=[_point(epoch) for epoch in result.runs[0].curve],
        )
        for result in results
        if result.runs
    ]
    methods.sort(key=lambda m: (-m.metrics["hr@20"].mean, -m.metrics["mrr@20"].mean))
    failed = [MethodReport(name=r.name, failure=r.failure) for r in results if not r.runs]
    return Report(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        data=benchmark.name,
        facts=benchmark.facts(),
        problems=[_problem(problem) for problem in benchmark.problems],
        seeds=seeds,
        methods=methods + failed,
        environment=environment,
    )


def _index(labels: list[str], name: str) -> int:
    return labels.index(name) if name in labels else -1


def by_history_length(clicks_before: IntArray) -> tuple[IntArray, list[str]]:
    """Group cases by clicks before the target (1, 2, 3–4, …): bucket of each case, and labels."""
    bucket = np.searchsorted([2, 3, 5, HISTORY_LENGTH], clicks_before, "right")
    return bucket, ["1", "2", "3–4", f"5–{HISTORY_LENGTH - 1}", f"{HISTORY_LENGTH}+"]


def by_popularity(targets: IntArray, popularity: IntArray) -> tuple[IntArray, list[str]]:
    """Group cases by popularity of the target: bucket of each case, and labels.

    Items are sorted by clicks and split into groups with equal numbers of clicks: the first holds a
    few best sellers, the last the long tail. A label has the number of items. Unknown (cold)
    targets are a separate group.
    """
    order = np.argsort(-popularity, kind="stable")
    sold = np.cumsum(popularity[order]) - popularity[order]
    band_of = np.empty(len(popularity) + 1, np.int64)
    band_of[order + 1] = np.minimum(len(BANDS) * sold // max(1, popularity.sum()), len(BANDS) - 1)
    band_of[PADDING] = len(BANDS)
    sizes = np.bincount(band_of[1:], minlength=len(BANDS))
    labels = [f"{n}: {s:,}" for n, s in zip(BANDS, sizes, strict=True)]
    return band_of[targets], [*labels, "cold"]


def _metrics(runs: Sequence[Run]) -> dict[str, Estimate]:
    """All metrics of one method."""
    evaluations = [run.evaluation for run in runs]
    estimates = {
        metric: _estimate(
            [float(e.per_case(metric).mean()) for e in evaluations],
            _standard_error(_over_seeds(runs, metric)),
        )
        for metric in METRICS
    }
    if not any(math.isnan(e.auc) for e in evaluations):
        error = float(np.mean([e.auc_error for e in evaluations]))
        estimates["auc"] = _estimate(
            [e.auc for e in evaluations], None if math.isnan(error) else error
        )
    estimates |= _calibration(evaluations)
    covered = [float(e.covered.mean()) for e in evaluations if e.covered is not None]
    single = np.mean([run.single_ms.mean() for run in runs]) if runs[0].single_ms.size else None
    estimates["coverage"] = _estimate(covered)
    estimates["fit_seconds"] = _estimate([run.fit_seconds for run in runs])
    estimates["ms_batched"] = _estimate([run.batched_ms for run in runs])
    if single is not None:
        queries = np.concatenate([run.single_ms for run in runs])
        estimates["ms_single"] = _estimate(
            [float(run.single_ms.mean()) for run in runs], _standard_error(queries)
        )
    return estimates


def _calibration(evaluations: Sequence[Evaluation]) -> dict[str, Estimate]:
    """The calibration error of the first items, its noise, and the error before calibration."""
    found = {
        "ece": [e.calibration_error() for e in evaluations],
        "ece_before": [e.calibration_error(calibrated=False) for e in evaluations],
    }
    known = {
        name: _estimate([error for error in errors if error is not None])
        for name, errors in found.items()
        if None not in errors
    }
    if "ece" in known:
        known["ece_noise"] = _estimate([e.calibration_noise() for e in evaluations])
    return known


def _estimate(seeds: list[float], standard_error: float | None = None) -> Estimate:
    return Estimate(
        mean=float(np.mean(seeds)),
        standard_error=standard_error,
        sd=float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None,
        seeds=seeds,
    )


def _standard_error(values: Values) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _over_seeds(runs: Sequence[Run], metric: str) -> Values:
    """Shape [M]: the value of each case, averaged over the seeds."""
    mean: Values = np.mean([run.evaluation.per_case(metric) for run in runs], axis=0)
    return mean


def _versus(
    name: str, metric: str, per_case: dict[str, dict[str, Values]], sessions: IntArray
) -> Difference | None:
    """The paired difference of a method to the best other one; None if there is no other."""
    others = [other for other in per_case if other not in (name, Ceiling.name)]
    if not others or name not in per_case:
        return None
    best = max(others, key=lambda other: float(per_case[other][metric].mean()))
    difference = per_case[name][metric] - per_case[best][metric]
    low, high = paired_interval(difference, sessions)
    return Difference(other=best, difference=float(difference.mean()), low=low, high=high)


def _buckets(values: dict[str, Values], bucket: IntArray, labels: list[str]) -> list[Bucket]:
    """The metrics of each bucket; empty buckets are left out."""
    parts = []
    for i, label in enumerate(labels):
        inside = bucket == i
        if not inside.any():
            continue
        hits, reciprocal = values["hr@20"][inside], values["mrr@20"][inside]
        parts.append(
            Bucket(
                label=label,
                cases=int(inside.sum()),
                hr20=float(hits.mean()),
                hr20_error=_standard_error(hits),
                mrr20=float(reciprocal.mean()),
                mrr20_error=_standard_error(reciprocal),
            )
        )
    return parts


def _point(epoch: Epoch) -> CurvePoint:
    finite = {k: v if math.isfinite(v) else None for k, v in asdict(epoch).items()}
    return CurvePoint.model_validate(finite)


def _problem(problem: Problem) -> ProblemReport:
    return ProblemReport(
        file=problem.file,
        what=problem.what,
        consequence=problem.consequence,
        count=problem.count,
        first=problem.first,
        text=str(problem),
    )
