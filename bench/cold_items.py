"""How well are items recommended that have no click yet, or few?

    make bench-cold-items ARGS="--png cold-items.png"

The variants world: a third of its items come late, most of those when nobody may learn from their
clicks any more. The default preset is fitted with what the shop says of its items, and without; and
the most popular items of the last item's category, cold ones at random among them, are the floor.
Test clicks are parted by how many clicks the clicked item had in training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nextclick.services.evaluate.worlds import variants
from nextclick.shared.windows import PADDING
from nextclick.trainer.compare.baselines.categories import CategoryPopularity
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.bst_method import BSTMethod
from nextclick.trainer.compare.method import Method
from nextclick.trainer.data import Split
from nextclick.trainer.evaluate import evaluate
from nextclick.trainer.evaluate.bootstrap import paired_interval
from nextclick.trainer.fit.presets import Preset, preset

CPU = torch.device("cpu")
WITH, WITHOUT, FLOOR = "with content", "clicks alone", "category popularity"
METRICS = ("hr@20", "mrr@20")
BOUNDS = (0, 1, 3, 6, 11, 21, 51)
"""Fewest training clicks of each group of items."""


@dataclass(frozen=True)
class Ranked:
    """The test cases of one or several worlds, and how each method ranked them."""

    training_clicks: npt.NDArray[np.int64]
    """Shape [M]: clicks of the target outside the test."""
    sessions: npt.NDArray[np.int64]
    """Shape [M]."""
    values: dict[str, dict[str, npt.NDArray[np.float64]]]
    """Method → metric → value of each case [M]."""

    def mean(self, method: str, metric: str, fewest: int, most: float) -> tuple[float, int]:
        """Mean of a metric on targets with so many training clicks, and the number of cases."""
        chosen = (self.training_clicks >= fewest) & (self.training_clicks <= most)
        found = self.values[method][metric][chosen]
        return float(found.mean()) if len(found) else float("nan"), len(found)

    def gain(self, metric: str) -> tuple[float, float, float]:
        """What content gives on items with training clicks: mean, and its 95 % interval."""
        warm = self.training_clicks > 0
        difference = (self.values[WITH][metric] - self.values[WITHOUT][metric])[warm]
        return float(difference.mean()), *paired_interval(difference, self.sessions[warm])


def measure(benchmark: Benchmark, recipe: Preset, seed: int, max_seconds: float) -> Ranked:
    """Fit the methods and rank the test cases of a world, which has the same catalogue for all."""
    assert (benchmark.cases.targets != PADDING).all()
    plain = replace(benchmark, contents={})

    def model(data: Benchmark) -> Method:
        return BSTMethod(recipe, CPU, max_seconds=max_seconds, contents=data.contents)

    methods: dict[str, tuple[Benchmark, Callable[[Benchmark], Method]]] = {
        WITH: (benchmark, model),
        WITHOUT: (plain, model),
        FLOOR: (benchmark, lambda data: CategoryPopularity(data.contents)),
    }
    values = {}
    for name, (data, make) in methods.items():
        method = make(data)
        method.fit(data.learnable, data.vocabulary, seed)
        found = evaluate(method.score, data.popularity, data.cases)
        values[name] = {metric: found.per_case(metric) for metric in METRICS}
    log = benchmark.log
    counts = np.bincount(log.items[log.split != Split.TEST], minlength=len(log.item_ids))
    clicks = counts[log.items[log.cases(Split.TEST)]]
    return Ranked(clicks, benchmark.sessions, values)


def together(ranked: Sequence[Ranked]) -> Ranked:
    """The cases of several worlds."""
    offsets = np.cumsum([0, *(one.sessions.max(initial=0) + 1 for one in ranked)])
    shifted = [one.sessions + offset for one, offset in zip(ranked, offsets, strict=False)]
    return Ranked(
        np.concatenate([one.training_clicks for one in ranked]),
        np.concatenate(shifted),
        {
            method: {m: np.concatenate([one.values[method][m] for one in ranked]) for m in METRICS}
            for method in ranked[0].values
        },
    )


def groups() -> list[tuple[str, int, float]]:
    """Each group of items by training clicks: name, fewest, most."""
    ends = [following - 1 for following in BOUNDS[1:]]
    parts = [
        (f"{a}" if a == b else f"{a}–{b}", a, float(b)) for a, b in zip(BOUNDS, ends, strict=False)
    ]
    return [*parts, (f"{BOUNDS[-1]} …", BOUNDS[-1], float("inf"))]


def show(ranked: Ranked) -> None:
    """Print HR@20 by training clicks, and what content gives on items with some."""
    print(f"{'training clicks':16}{'cases':>7}  " + "  ".join(ranked.values))
    for name, fewest, most in [*groups(), ("1 …", 1, float("inf"))]:
        means = [ranked.mean(method, "hr@20", fewest, most) for method in ranked.values]
        cells = (f"{value:{len(m)}.4f}" for (value, _), m in zip(means, ranked.values, strict=True))
        print(f"{name:16}{means[0][1]:7}  " + "  ".join(cells))
    for metric in METRICS:
        gain, low, high = ranked.gain(metric)
        print(f"{metric} of items with clicks: {gain:+.4f} by content ({low:+.4f} to {high:+.4f})")


def plot(ranked: Ranked, file: Path) -> None:
    """Draw HR@20 by training clicks, a line per method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    parts = groups()
    for method in ranked.values:
        means = [ranked.mean(method, "hr@20", fewest, most)[0] for _, fewest, most in parts]
        axes.plot([name for name, *_ in parts], means, marker="o", label=method)
    axes.set(xlabel="clicks of the item in training", ylabel="HR@20", ylim=(0, None))
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clicks", type=int, default=100_000, help="of each world")
    parser.add_argument("--seeds", type=int, default=2, help="of world and fit")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="longest fit")
    parser.add_argument("--steps", type=int, default=preset("default").steps, help="of a fit")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = replace(preset("default"), steps=options.steps)
    ranked = []
    for seed in range(options.seeds):
        benchmark = variants(seed, options.clicks)
        ranked.append(measure(benchmark, recipe, seed, options.max_seconds))
        print(f"seed {seed}")
        show(ranked[-1])
    if options.seeds > 1:
        print("all")
        show(together(ranked))
    if options.png:
        plot(together(ranked), options.png)


if __name__ == "__main__":
    main()
