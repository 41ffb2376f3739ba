"""Are the scores probabilities? Reliability diagrams before and after calibration.

    make bench-calibration ARGS="missions sessions/ --png calibration.png"

The default preset is fitted and ranks the test cases of each data set, as by `nextclick evaluate`.
The cases are then sorted by the probability of their first item and cut into bins of as many cases:
how probable was the first item, and how often was it clicked next?
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nextclick.services.evaluate.evaluation import open_data
from nextclick.services.replay.log import ReadOptions
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.bst_method import BSTMethod
from nextclick.trainer.evaluate import evaluate
from nextclick.trainer.evaluate.calibration_error import (
    Bin,
    expected_calibration_error,
    noise,
    reliability,
)
from nextclick.trainer.fit.presets import preset

CPU = torch.device("cpu")
GAP_MS = 30 * 60 * 1000


@dataclass(frozen=True)
class Curve:
    """The first items' probabilities against their hits: bins, expected calibration error."""

    bins: list[Bin]
    error: float
    noise: float
    """The error of a model without any, in 95 % of samples."""


@dataclass(frozen=True)
class Diagram:
    """One data set."""

    name: str
    before: Curve
    after: Curve


def measure(benchmark: Benchmark, method: BSTMethod, seed: int) -> Diagram:
    """Fit, rank the test cases, and compare the probabilities of first items with their hits."""
    method.fit(benchmark.learnable, benchmark.vocabulary, seed)
    found = evaluate(
        method.score, benchmark.popularity, benchmark.cases, calibration=method.calibration
    )
    after = found.first_p
    assert after is not None
    before = after if found.first_p_before is None else found.first_p_before
    ranked, hits = ~np.isnan(after), found.hits(1)
    return Diagram(
        benchmark.name,
        _curve(before[ranked], hits[ranked]),
        _curve(after[ranked], hits[ranked]),
    )


def _curve(probabilities: npt.NDArray[np.float64], hits: npt.NDArray[np.float64]) -> Curve:
    return Curve(
        reliability(probabilities, hits),
        expected_calibration_error(probabilities, hits),
        noise(probabilities),
    )


def plot(diagrams: Sequence[Diagram], file: Path) -> None:
    """Draw a reliability diagram for each data set, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(diagrams), 4.2), layout="constrained")
    panels = figure.subplots(1, len(diagrams), squeeze=False)[0]
    for axes, diagram in zip(panels, diagrams, strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
        for name, found in (("before", diagram.before), ("after", diagram.after)):
            rates = np.array([b.hit_rate for b in found.bins])
            low = rates - [b.low for b in found.bins]
            high = np.array([b.high for b in found.bins]) - rates
            axes.errorbar(
                [b.mean_probability for b in found.bins],
                rates,
                yerr=np.maximum([low, high], 0.0),
                marker="o",
                markersize=3.5,
                linewidth=1.2,
                capsize=2,
                label=f"{name}: ECE {100 * found.error:.2f} %",
            )
        axes.set(title=diagram.name, xlabel="probability of the first item", aspect="equal")
        bins = [*diagram.before.bins, *diagram.after.bins]
        end = min(1.0, 1.05 * max(max(b.mean_probability, b.high) for b in bins))
        axes.set(xlim=(0, end), ylim=(0, end), ylabel="share that was clicked next")
        axes.legend(loc="upper left")
    figure.savefig(file, dpi=120)


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", nargs="*", default=["missions"], help="as of nextclick evaluate")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="longest fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    diagrams = []
    for data in options.data:
        benchmark = open_data(data, GAP_MS, ReadOptions())
        method = BSTMethod(preset("default"), CPU, max_seconds=options.max_seconds)
        diagrams.append(measure(benchmark, method, options.seed))
        show(diagrams[-1])
    if options.png:
        plot(diagrams, options.png)


def show(diagram: Diagram) -> None:
    """Print a data set's error and bins, before and after."""
    for name, curve in (("before", diagram.before), ("after", diagram.after)):
        cases = sum(b.cases for b in curve.bins)
        print(
            f"{diagram.name} {name} calibration: ECE {100 * curve.error:.2f} % of {cases} cases, "
            f"noise {100 * curve.noise:.2f} %"
        )
        for b in curve.bins:
            print(f"  {b.mean_probability:.4f} {b.hit_rate:.4f} ({b.low:.4f} to {b.high:.4f})")


if __name__ == "__main__":
    main()
