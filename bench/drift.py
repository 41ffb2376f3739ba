"""Does retraining keep up with a shop that changes?

    make bench-drift ARGS="--png drift.png"

The missions world, in consecutive stretches of clicks. Over time one mission becomes popular, one
starts (its products are new), and one ends (its products are no longer sold). After each stretch
the trainer retrains on the newest clicks, from the served model, through the gate. Then the *next*,
unseen stretch is ranked by the model that is now served, by the first model, which is never
retrained, by a model fitted from scratch on the same clicks, and by the ceiling.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nextclick.services.evaluate.worlds import oracle
from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.publish import click_frame
from nextclick.shared.model import Checkpoint
from nextclick.shared.registry import Registry
from nextclick.trainer.compare.ceiling import Ceiling
from nextclick.trainer.data import ClickLog, Samples, Split, click_log, samples
from nextclick.trainer.evaluate import evaluate, evaluate_model
from nextclick.trainer.fit.presets import preset
from nextclick.trainer.retrain import FitLimits, fit_candidate, retrain

CPU = torch.device("cpu")
GAP_MS = 30 * 60 * 1000
START_MS = 1_700_000_000_000


def mission_popularity(stretch: int) -> dict[str, float]:
    """Mission name → factor on how often it is begun in a stretch, for MissionWorld."""
    return {
        "day in the park": 4.0 if stretch >= 3 else 1.0,
        "back from the woods": 0.0 if stretch < 5 else 2.0,
        "fussy cat": 1.0 if stretch < 7 else 0.4 if stretch < 9 else 0.0,
    }


def clicks_of(stretch: int, count: int) -> pd.DataFrame:
    """The clicks of one stretch, one per second, after those of the stretch before."""
    world = MissionWorld(mission_popularity=mission_popularity(stretch))
    last_ms = START_MS + (stretch + 1) * count * 1000
    return click_frame(world.clicks(count, seed=stretch), last_ms, rate=1, seed=stretch)


def ndcg(checkpoint: Checkpoint, log: ClickLog) -> float:
    """NDCG@10 of a model on all clicks of a log."""
    cases = samples(log, Split.TEST, checkpoint.vocabulary)
    return evaluate_model(checkpoint, cases, CPU).metrics()["ndcg@10"]


def ceiling(stretch: int, log: ClickLog, checkpoint: Checkpoint) -> float:
    """The best possible NDCG@10 in a stretch; the catalogue includes items that the model lacks."""
    world = MissionWorld(mission_popularity=mission_popularity(stretch))
    click_probabilities = partial(world.next_click_given_history, rollover=0.0)
    best = Ceiling(oracle(world.item_ids, click_probabilities))
    vocabulary = checkpoint.vocabulary.extended(world.item_ids)
    best.fit(log, vocabulary, seed=0)
    cases: Samples = samples(log, Split.TEST, vocabulary)
    popularity = np.ones(len(vocabulary), np.int64)
    return evaluate(best.score, popularity, cases).metrics()["ndcg@10"]


def run(stretches: int, count: int, window: int, limits: FitLimits, folder: Path) -> pd.DataFrame:
    """A row per retrain: NDCG@10 of each model on the next stretch, and the gate's decision."""
    registry = Registry(str(folder))
    recipe = preset("default")
    frames = [clicks_of(0, count)]
    rows = []
    first: Checkpoint | None = None
    for stretch in range(stretches):
        log = pd.concat(frames, ignore_index=True).iloc[-window:]
        outcome = retrain(log, registry, recipe, limits, gap_ms=GAP_MS, device=CPU)
        assert outcome is not None
        pointer = registry.pointer()
        assert pointer is not None, outcome.reason
        served = registry.load(pointer.version)
        first = first or served
        cold = fit_candidate(click_log(log, GAP_MS), None, None, recipe, limits, device=CPU)
        frames.append(clicks_of(stretch + 1, count))
        unseen = click_log(frames[-1], GAP_MS, validation=0.0, test=1.0)
        best = ceiling(stretch + 1, unseen, served)
        rows.append(
            {
                "retrain": stretch + 1,
                "gate": "published" if outcome.version else "refused",
                "served": ndcg(served, unseen),
                "never retrained": ndcg(first, unseen),
                "from nothing": ndcg(cold, unseen),
                "ceiling": best,
                "seconds": outcome.seconds,
            }
        )
        printed = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in rows[-1].items()}
        print(" ".join(f"{k} {v}" for k, v in printed.items()), flush=True)
    return pd.DataFrame(rows)


def plot(table: pd.DataFrame, file: Path) -> None:
    """Plot each model's NDCG@10 as a share of the ceiling's, over the retrains."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in ("served", "from nothing", "never retrained"):
        axes.plot(table["retrain"], table[name] / table["ceiling"], marker="o", label=name)
    for at, what in ((3, "a popular mission"), (5, "a new mission"), (9, "an old one ends")):
        axes.axvline(at, color="grey", linestyle=":", linewidth=1)
        axes.annotate(what, (at, 1.0), rotation=90, va="top", ha="right", fontsize=8, color="grey")
    axes.set(xlabel="retrain", ylabel="share of the ceiling's NDCG@10, next stretch")
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--stretches", type=int, default=12)
    parser.add_argument("--clicks", type=int, default=20_000, help="per stretch")
    parser.add_argument("--window", type=int, default=60_000, help="clicks to train on")
    parser.add_argument("--epochs", type=int, default=6, help="of each fit, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        limits = FitLimits(options.seed, options.epochs)
        table = run(options.stretches, options.clicks, options.window, limits, Path(folder))
    shares = table.assign(
        **{n: table[n] / table["ceiling"] for n in ("served", "from nothing", "never retrained")}
    )
    print(shares.drop(columns="ceiling").round(4).to_string(index=False))
    if options.png:
        plot(table, options.png)


if __name__ == "__main__":
    main()
