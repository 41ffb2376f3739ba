"""How close the model comes to the best possible on the source's world.

    make bench-quality            the default preset
    make bench-quality ARGS="--preset source"

200,000 interactions of the source's own log, each user's newest tenth of the clicks as the test,
full ranking of the 50 items. Beside the model stand, on the same cases: popularity, counting
the categories of the last ten clicks, and two oracles that know the world's law: Bayes'
inference of the persona from the last ten clicks (the ceiling of anything that sees only
these), and knowing the persona.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import numpy.typing as npt
import torch

from services.simulator.publish import click_frame
from services.simulator.world import CATEGORIES, World
from shared.checkpoint import Checkpoint, Vocabulary
from trainer.dataset import ClickLog, Samples, Split, click_log, samples
from trainer.evaluate import Evaluation, evaluate_model, evaluate_popularity, evaluate_scores
from trainer.presets import preset
from trainer.retrain import FitLimits, fit_candidate

INTERACTIONS = 200_000
CPU = torch.device("cpu")


def source_log(world: World) -> ClickLog:
    """The source's log, grouped and split by time."""
    frame = click_frame(world.source_clicks(INTERACTIONS), 1_700_000_000_000, rate=200, seed=0)
    return click_log(frame, gap_ms=0)


def oracles(world: World, log: ClickLog, vocabulary: Vocabulary) -> dict[str, Evaluation]:
    """Evaluate the methods that need no training, in the rows of `vocabulary`."""
    cases = samples(log, Split.TEST, vocabulary)
    products = np.array([int(item) for item in vocabulary.item_ids])
    category = np.concatenate([[-1], world.category[products - 1]])
    counts = np.stack(
        [(category[cases.histories] == c).sum(axis=1) for c in range(len(CATEGORIES))], axis=1
    )
    bayes = world.next_click_given_history(np.concatenate([[0], products])[cases.histories])
    return {
        "popularity": evaluate_popularity(log.counts(vocabulary), cases),
        "category counts of the last 10": _evaluate(counts[:, category[1:]], cases),
        "ceiling: Bayes from the last 10": _evaluate(np.log(bayes[:, products - 1]), cases),
        "persona known": _evaluate(
            np.log(world.next_click[_personas(world, log)][:, products - 1]), cases
        ),
    }


def fit_model(log: ClickLog, preset_name: str, seed: int) -> Checkpoint:
    """Fit a preset on the training split, as the trainer does."""
    limits = FitLimits(seed)
    return fit_candidate(log, None, None, preset(preset_name), limits, device=CPU)


def _personas(world: World, log: ClickLog) -> npt.NDArray[np.int64]:
    """The persona behind each test case."""
    index = np.arange(len(log.items))
    chosen = (log.split == Split.TEST) & (index > log.starts)
    users = log.user_ids[log.users[chosen]].astype(np.int64)
    personas: npt.NDArray[np.int64] = world.persona[users]
    return personas


def _evaluate(scores: npt.NDArray[np.float64], cases: Samples) -> Evaluation:
    """Evaluate scores in which all items of a category tie, breaking the ties at random."""
    jitter = np.random.default_rng(0).random(scores.shape) * 1e-9
    return evaluate_scores(scores + jitter, cases)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    world = World()
    log = source_log(world)
    vocabulary = Vocabulary([]).extended(log.ids_in(Split.TRAIN))
    results = {name: [e.metrics()] for name, e in oracles(world, log, vocabulary).items()}
    name = f"BST preset {options.preset}, {options.seeds} seeds"
    results[name] = []
    seconds = []
    for seed in range(options.seeds):
        began = time.monotonic()
        model = fit_model(log, options.preset, seed)
        seconds.append(time.monotonic() - began)
        cases = samples(log, Split.TEST, model.vocabulary)
        results[name].append(evaluate_model(model, cases, CPU).metrics())

    print(f"| method | {' | '.join(('HR@10', 'NDCG@10', 'AUC'))} |\n|---|---|---|---|")
    for method, runs in results.items():
        cells = []
        for metric in ("hr@10", "ndcg@10", "auc"):
            values = [run[metric] for run in runs]
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4f}{spread}")
        print(f"| {method} | {' | '.join(cells)} |")
    print(f"\n{len(cases):,} test cases; seconds to fit: {', '.join(f'{s:.0f}' for s in seconds)}")


if __name__ == "__main__":
    main()
