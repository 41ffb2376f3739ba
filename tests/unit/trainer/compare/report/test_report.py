from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from nextclick.shared.data_problems import Problem
from nextclick.shared.errors import CheckpointError
from nextclick.shared.model import Calibration, Vocabulary
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.ceiling import Ceiling
from nextclick.trainer.compare.method import Method
from nextclick.trainer.compare.report import terminal
from nextclick.trainer.compare.report.compare import compare
from nextclick.trainer.compare.report.document import Report
from nextclick.trainer.compare.report.page import page
from nextclick.trainer.compare.report.plots import plots
from nextclick.trainer.compare.report.summary import by_history_length, by_popularity, summarise
from nextclick.trainer.compare.report.theme import Plot
from nextclick.trainer.data import ClickLog, Samples, click_log
from nextclick.trainer.evaluate import FloatArray, paired_interval
from nextclick.trainer.fit.loop import Epoch

ITEMS = 60


class Noisy:
    """Knows the next item and blurs it with noise; refuses everything if told so."""

    def __init__(self, name: str, noise: float, refuses: bool = False) -> None:
        self.name = name
        self.noise = noise
        self.refuses = refuses
        self.curve = [Epoch(0, float("nan"), 2.0, 0.1, 0.0), Epoch(1, 1.5, 1.2, 0.4, 3.0)]

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        if self.refuses:
            raise CheckpointError("no fit for me")
        self._rng = np.random.default_rng(seed)

    def score(self, cases: Samples) -> FloatArray:
        scores = self._rng.normal(0, self.noise, (len(cases), ITEMS))
        scores[np.arange(len(cases)), np.maximum(cases.targets - 1, 0)] += 1.0
        return scores.astype(np.float32)


def law(cases: Samples, vocabulary: Vocabulary) -> FloatArray:
    """log P: the target is certain."""
    probabilities = np.eye(len(vocabulary))[np.maximum(cases.targets - 1, 0)]
    return np.log(np.maximum(probabilities, 1e-300))


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        [(f"u{u}", f"i{rng.integers(0, ITEMS)}", t) for u in range(60) for t in range(40)],
        columns=["user_id", "item_id", "timestamp"],
    )
    frame["timestamp"] += frame["timestamp"] // 5 * 1000  # sessions of five clicks
    problem = Problem("x.txt", "<b>odd</b> line", "passed over", 3, [1, 2, 3])
    return Benchmark("tiny <&>", click_log(frame, gap_ms=500), [problem], law)


@pytest.fixture(scope="module")
def report(benchmark: Benchmark) -> Report:
    makers: list[Callable[[], Method]] = [
        lambda: Noisy("blurred", 0.8),
        lambda: Noisy("sharp", 0.4),
        lambda: Noisy("<i>broken</i>", 1.0, refuses=True),
        lambda: Ceiling(law),
    ]
    seeds = [0, 1, 2]
    return summarise(benchmark, compare(benchmark, makers, seeds), seeds, {"python": "3"})


class Certain(Noisy):
    """Shows half of the probability that it computes for its first item, which is always right."""

    calibration = Calibration(c=-2.0)

    def score(self, cases: Samples) -> FloatArray:
        scores = np.full((len(cases), ITEMS), 0.2 / (ITEMS - 1))
        scores[np.arange(len(cases)), np.maximum(cases.targets - 1, 0)] = 0.8
        return np.log(scores)


@pytest.fixture(scope="module")
def drawn(report: Report) -> list[Plot]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nextclick.trainer.compare.report.theme._DPI", 40)  # fewer pixels
        return plots(report)


def test_methods_come_best_first_and_the_refused_one_last(report: Report) -> None:
    assert [method.name for method in report.methods] == [
        *("Ceiling", "sharp", "blurred", "<i>broken</i>"),
    ]
    broken = report.methods[-1]
    assert (broken.failure, broken.metrics) == ("no fit for me", {})


def test_means_and_errors_are_over_cases_and_seeds(benchmark: Benchmark) -> None:
    seeds = [0, 1, 2]
    results = compare(benchmark, [lambda: Noisy("n", 0.8)], seeds)
    (method,) = summarise(benchmark, results, seeds, {}).methods
    hits = np.stack([run.evaluation.ranks <= 20 for run in results[0].runs])
    estimate = method.metrics["hr@20"]
    assert estimate.seeds == pytest.approx(hits.mean(axis=1))
    assert estimate.mean == pytest.approx(hits.mean())
    assert estimate.sd == pytest.approx(np.std(hits.mean(axis=1), ddof=1))
    per_case = hits.mean(axis=0)
    error = per_case.std(ddof=1) / np.sqrt(len(per_case))
    assert estimate.standard_error == pytest.approx(error)
    assert method.hr_at[19] == pytest.approx(estimate.mean)
    assert len(method.hr_at) == 50
    assert sum(bucket.cases for bucket in method.by_history_length) == len(benchmark.cases)
    assert sum(bucket.cases for bucket in method.by_popularity) == len(benchmark.cases)
    assert method.versus == {}  # there is no other method to compare with
    assert [point.train_loss for point in method.curve] == [None, 1.5]


def test_the_calibration_error_is_reported_of_methods_that_give_probabilities(
    benchmark: Benchmark,
) -> None:
    makers: list[Callable[[], Method]] = [
        lambda: Noisy("no probabilities", 0.4),
        lambda: Certain("certain", 0.0),
        lambda: Ceiling(law),
    ]
    made = summarise(benchmark, compare(benchmark, makers, [0, 1]), [0, 1], {})
    found = {method.name: method.metrics for method in made.methods}
    # Four to one are odds of 0.8; calibrated they are e² times lower.
    shown = 4 / (4 + np.exp(2))
    assert found["certain"]["ece"].seeds == pytest.approx([1 - shown] * 2, abs=1e-6)
    assert found["certain"]["ece_before"].mean == pytest.approx(0.2, abs=1e-6)
    assert 0 < found["certain"]["ece_noise"].mean < 0.2
    assert found["Ceiling"]["ece"].mean == pytest.approx(0.0, abs=1e-6)
    assert "ece_before" not in found["Ceiling"]
    assert not [name for name in found["no probabilities"] if name.startswith("ece")]

    console = Console(file=io.StringIO(), width=100)
    terminal.show(made, console)
    table = console.file.getvalue().partition("calibration: ")[2].partition("coverage")[0]  # type: ignore[attr-defined]
    assert f"{100 * (1 - shown):.2f}" in table
    assert "20.00" in table
    assert "no probabilities" not in table
    assert "Calibration" in page(made, [])


def test_targets_of_several_event_types_are_shown_apart(benchmark: Benchmark) -> None:
    types = np.where(np.arange(len(benchmark.log.items)) % 4, "view", "Purchase").astype(object)
    typed = Benchmark("typed", replace(benchmark.log, event_types=types))
    seeds = [0]
    made = summarise(typed, compare(typed, [lambda: Noisy("n", 0.8)], seeds), seeds, {})
    views, purchases = made.methods[0].by_event_type
    assert (views.label, purchases.label) == ("view", "purchase")
    assert views.cases + purchases.cases == len(typed.cases)
    assert purchases.cases == (typed.event_types == "purchase").sum() > 0
    console = Console(file=io.StringIO(), width=200)
    terminal.show(made, console)
    assert "HR@20 by event type" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_same_seeds_give_the_same_report(benchmark: Benchmark, report: Report) -> None:
    makers: list[Callable[[], Method]] = [lambda: Noisy("sharp", 0.4)]
    (again,) = summarise(benchmark, compare(benchmark, makers, [0, 1, 2]), [0, 1, 2], {}).methods
    sharp = next(method for method in report.methods if method.name == "sharp")
    for metric in ("hr@5", "hr@10", "hr@20", "mrr@20", "ndcg@10", "auc", "coverage"):
        assert again.metrics[metric] == sharp.metrics[metric]
    assert again.hr_at == sharp.hr_at
    assert again.by_popularity == sharp.by_popularity


def test_each_method_is_compared_with_the_best_other_but_not_with_the_ceiling(
    report: Report,
) -> None:
    ceiling, sharp, blurred = report.methods[:3]
    assert (ceiling.versus["hr@20"].other, sharp.versus["hr@20"].other) == ("sharp", "blurred")
    there, back = sharp.versus["mrr@20"], blurred.versus["mrr@20"]
    assert there.difference == pytest.approx(-back.difference)
    assert 0 < there.low < there.difference < there.high
    assert there.difference == pytest.approx(
        sharp.metrics["mrr@20"].mean - blurred.metrics["mrr@20"].mean
    )


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        sessions = np.repeat(np.arange(60), rng.integers(1, 6, 60))
        common = rng.normal(0.3, 1.0, 60)[sessions]  # cases of a session resemble each other
        difference = common + rng.normal(0, 0.5, len(sessions))
        low, high = paired_interval(difference, sessions, resamples=200, seed=trial)
        covered += low <= 0.3 <= high
    assert 175 <= covered <= 199


def test_history_lengths_fall_into_five_buckets() -> None:
    bucket, labels = by_history_length(np.array([1, 2, 3, 4, 5, 9, 10, 99]))
    assert [labels[b] for b in bucket] == [
        *("1", "2", "3–4", "3–4", "5–9", "5–9", "10+", "10+"),
    ]


def test_popularity_bands_share_the_clicks_equally() -> None:
    popularity = np.array([1] * 20 + [20] + [5] * 4 + [2] * 10 + [20])
    targets = np.array([21, 36, 22, 26, 1, 0])
    band, labels = by_popularity(targets, popularity)
    assert labels == ["head: 1", "2nd: 1", "3rd: 4", "4th: 10", "tail: 20", "cold"]
    assert band.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_terminal_shows_every_method_and_flaw(report: Report) -> None:
    console = Console(file=io.StringIO(), width=100)
    terminal.show(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("tiny <&>", "sharp", "blurred", "Ceiling", "no fit for me", "3 × <b>odd</b>"):
        assert expected in shown
    best = report.methods[1].metrics["hr@20"]
    assert f"{100 * best.mean:.2f}" in shown
    assert best.standard_error is not None
    assert f"±{100 * best.standard_error:.2f}" in shown


def test_the_page_holds_its_plots_for_light_and_dark(report: Report, drawn: list[Plot]) -> None:
    html = page(report, drawn)
    images = re.findall(r'(srcset|src)="data:image/png;base64,([^"]+)"', html)
    assert [kind for kind, _ in images] == ["srcset", "src"] * 9
    for _, content in images:
        assert base64.b64decode(content).startswith(b"\x89PNG")
    assert {plot.title for plot in drawn} >= {"HR@20", "HR@k", "HR@20 by history length"}
    assert all(plot.light != plot.dark for plot in drawn)
    assert not re.search(r'(src|href)="(?!data:)', html)  # nothing is loaded from elsewhere


def test_names_from_the_data_cannot_be_markup(report: Report) -> None:
    html = page(report, [])
    assert "tiny &lt;&amp;&gt;" in html
    assert "&lt;b&gt;odd&lt;/b&gt; line" in html
    assert "&lt;i&gt;broken&lt;/i&gt;" in html
    assert "<b>odd" not in html
    assert "<i>broken" not in html


def test_plots_without_data_are_left_out(
    report: Report, drawn: list[Plot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here: no training curve, and one history length for all cases."""
    monkeypatch.setattr("nextclick.trainer.compare.report.theme._DPI", 40)
    ceiling = report.methods[0]
    alike = ceiling.model_copy(update={"by_history_length": ceiling.by_history_length[:1]})
    titles = [plot.title for plot in plots(report.model_copy(update={"methods": [alike]}))]
    assert titles == [p.title for p in drawn[:7] if p.title != "HR@20 by history length"]


def test_a_report_of_nothing_but_refusals_can_be_shown(report: Report) -> None:
    empty = report.model_copy(update={"methods": report.methods[-1:]})
    terminal.show(empty, Console(file=io.StringIO()))
    assert "no fit for me" in page(empty, plots(empty))


def test_a_report_survives_json(report: Report) -> None:
    assert Report.model_validate_json(report.model_dump_json()) == report
