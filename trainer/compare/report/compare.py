"""Fits methods on one data set, ranks its cases with each, and times both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from nextclick.shared.errors import NextclickError
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.method import Method
from nextclick.trainer.data import Samples
from nextclick.trainer.evaluate import Evaluation, FloatArray, evaluate
from nextclick.trainer.fit.loop import Epoch

SINGLE_QUERIES = 100
_SINGLE_SECONDS = 5.0
"""Time limit for the timing of single queries of a method."""


@dataclass(frozen=True)
class Run:
    """One method, one seed."""

    evaluation: Evaluation
    fit_seconds: float
    single_ms: FloatArray
    """Shape [queries]: time of each query of one case."""
    batched_ms: float
    """Mean time per case in the batches of the evaluation."""
    curve: list[Epoch]
    """Training curve; empty if the method has none."""


@dataclass(frozen=True)
class Result:
    """One method, all seeds."""

    name: str
    runs: list[Run]
    failure: str | None = None
    """Why the method could not be run; None if it was."""


def compare(
    benchmark: Benchmark, factories: Sequence[Callable[[], Method]], seeds: Sequence[int]
) -> list[Result]:
    """Run every method with every seed, with a progress bar on a terminal.

    A method that raises NextclickError gets a result with that failure; the others are run.
    """
    results = []
    with tqdm(total=len(factories) * len(seeds), unit="run", leave=False, disable=None) as bar:
        for make in factories:
            name, runs, failure = make().name, [], None
            bar.set_description(name)
            try:
                for seed in seeds:
                    runs.append(run(benchmark, make(), seed))
                    bar.update()
            except NextclickError as error:
                failure, runs = str(error), []
            results.append(Result(name, runs, failure))
    return results


def run(benchmark: Benchmark, method: Method, seed: int) -> Run:
    """Fit one method, rank all cases, and time some single queries."""
    began = time.perf_counter()
    method.fit(benchmark.learnable, benchmark.vocabulary, seed)
    fit_seconds = time.perf_counter() - began

    scoring_seconds, scored = 0.0, 0

    def score(cases: Samples) -> FloatArray:
        nonlocal scoring_seconds, scored
        started = time.perf_counter()
        scores = method.score(cases)
        scoring_seconds += time.perf_counter() - started
        scored += len(cases)
        return scores

    evaluation = evaluate(
        score,
        benchmark.popularity,
        benchmark.cases,
        coverage=True,
        calibration=getattr(method, "calibration", None),
    )
    return Run(
        evaluation=evaluation,
        fit_seconds=fit_seconds,
        single_ms=_single_queries(method, benchmark.cases, seed),
        batched_ms=1000.0 * scoring_seconds / max(1, scored),
        curve=list(getattr(method, "curve", [])),
    )


def _single_queries(method: Method, cases: Samples, seed: int) -> FloatArray:
    """Times of some random single queries, ms, without the first three, which warm up."""
    known = np.flatnonzero(cases.histories.any(axis=1))
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(known)[: SINGLE_QUERIES + 3]
    times: list[float] = []
    began = time.perf_counter()
    for index in chosen:
        case = cases.take(np.array([index]))
        started = time.perf_counter()
        method.score(case)
        now = time.perf_counter()
        times.append(1000.0 * (now - started))
        if now - began > _SINGLE_SECONDS:
            break
    return np.array(times[3:] or times)
