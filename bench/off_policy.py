"""Are off-policy estimates right? Estimates from simulated logs, against what is true.

    make bench-off-policy ARGS="--png off-policy.png"

One model's lists, with drawn places, are shown to shoppers who react to them. From such logs each
estimator says what the lists of other models would have been worth; the shop knows what they are
worth. With `intent` the estimators' assumption holds, that whether a shown item is clicked does not
depend on what stands beside it. With `choice` it does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from nextclick.bench.reactive_shop import SECONDS_PER_CLICK, Reaction, Shop
from nextclick.services.evaluate.off_policy import (
    ESTIMATORS,
    Estimator,
    LoggedList,
    estimate,
    shown_worth,
)
from nextclick.shared.item_features import NO_CONTENTS, Contents
from nextclick.shared.items import NOTHING_KNOWN
from nextclick.shared.model import Checkpoint, Constraints, Scorer, seed_of
from nextclick.shared.profiles import Profile
from nextclick.shared.schemas import ScoredItem
from nextclick.shared.windows import IntArray
from nextclick.trainer.data import click_log
from nextclick.trainer.fit.presets import preset
from nextclick.trainer.retrain import FitLimits, fit_candidate

CPU = torch.device("cpu")
K = 10
_SESSION = 6
"""Most lists of a session."""
_BATCH = 512
SESSIONS_OF_MODELS = {"logged": 1500, "much data": 6000, "little data": 200}
"""Model → sessions that it is fitted on."""


@dataclass(frozen=True)
class Log:
    """The lists of one simulated log, and the rows of the last clicks before them."""

    lists: list[LoggedList]
    last: list[int]


@dataclass(frozen=True)
class Reliability:
    """One estimator of one model's worth, over all logs."""

    reaction: str
    model: str
    estimator: str
    truth: float
    mean: float
    error: float
    """Root mean square error."""
    width: float
    """Mean width of the intervals."""
    coverage: float
    """Share of the 95 % intervals that hold the truth."""
    support: float


def fit(
    clicks: pd.DataFrame, epochs: int, seed: int, contents: Contents = NO_CONTENTS
) -> Checkpoint:
    """A model of clicks, each user of whom is one session, and of what is said about the items."""
    data, limits = click_log(clicks, gap_ms=0), FitLimits(seed, epochs)
    return fit_candidate(data, None, None, preset("default"), limits, device=CPU, contents=contents)


def simulate(
    shop: Shop, scorer: Scorer, profile: Profile | None, shoppers: int, seed: int, logs: int = 1
) -> list[Log]:
    """Show lists to shoppers until they leave, in so many independent logs."""
    rng = np.random.default_rng(seed)
    count = shoppers * logs
    made = [Log([], []) for _ in range(logs)]
    row_of = {item: row for row, item in enumerate(shop.ids)}
    of = scorer.prepare([profile] if profile else [], NOTHING_KNOWN)(K, False)
    active = np.arange(count)
    histories = [[shop.ids[row]] for row in shop.first_clicks(count, rng)]
    for step in range(_SESSION):
        seeds = [seed_of(f"{seed} {user}", str(step)) for user in active]
        rankings = []
        for at in range(0, len(active), _BATCH):
            part = [histories[user] for user in active[at : at + _BATCH]]
            rankings += scorer.recommend(part, [of] * len(part), seeds=seeds[at : at + _BATCH])
        last = np.array([row_of[histories[user][-1]] for user in active])
        shown = [np.array([row_of[item.item_id] for item in r.items]) for r in rankings]
        clicked = shop.clicks(last, shown, int(rng.integers(2**62)))
        for user, ranking, at_row, click in zip(active, rankings, last, clicked, strict=True):
            drawn = ranking.drawn
            propensities = drawn.propensities if drawn else [1.0] * len(ranking.items)
            items = [item.item_id for item in ranking.items]
            log = made[user // shoppers]
            log.last.append(int(at_row))
            log.lists.append(
                LoggedList(
                    str(user),
                    list(histories[user]),
                    None,
                    dict(zip(items, propensities, strict=True)),
                    step * SECONDS_PER_CLICK * 1000,
                    shop.ids[click] if click >= 0 else None,
                )
            )
        stays = clicked >= 0
        active, clicked = active[stays], clicked[stays]
        for user, click in zip(active, clicked, strict=True):
            histories[user].append(shop.ids[click])
    return made


def lists_of(scorer: Scorer, histories: Sequence[list[str]]) -> list[list[ScoredItem]]:
    """The lists of a model without drawn places."""
    made: list[list[ScoredItem]] = []
    for at in range(0, len(histories), _BATCH):
        part = list(histories[at : at + _BATCH])
        made += [r.items for r in scorer.recommend(part, [Constraints(K)] * len(part))]
    return made


def best_lists(shop: Shop, last: Sequence[int]) -> list[list[ScoredItem]]:
    """The lists of somebody who knows what shoppers want."""
    best: list[IntArray] = [np.argsort(-row)[:K] for row in shop.wanted]
    return [[ScoredItem(shop.ids[i], float(shop.wanted[at, i])) for i in best[at]] for at in last]


def measure(
    reaction: Reaction, profile: Profile, logs: int, shoppers: int, epochs: int, seed: int
) -> list[Reliability]:
    """Simulate logs, and compare all estimates with the truth."""
    shop = Shop(reaction=reaction, seed=seed)
    row_of = {item: row for row, item in enumerate(shop.ids)}
    scorers = {
        name: Scorer(
            fit(shop.organic_clicks(sessions, 5, seed + 1 + number), epochs, seed + 1 + number),
            CPU,
            K,
        )
        for number, (name, sessions) in enumerate(SESSIONS_OF_MODELS.items())
    }
    made = simulate(shop, scorers["logged"], profile, shoppers, seed + 9, logs)
    last = [at for log in made for at in log.last]
    entries = [one for log in made for one in log.lists]
    others = {
        name: lists_of(scorer, [e.history for e in entries]) for name, scorer in scorers.items()
    }
    others["best possible"] = best_lists(shop, last)

    def truth(rows: Sequence[IntArray]) -> float:
        return float(np.mean([shop.worth(at, row) for at, row in zip(last, rows, strict=True)]))

    ends = np.cumsum([len(log.lists) for log in made])
    parts = [slice(end - len(log.lists), end) for end, log in zip(ends, made, strict=True)]
    rows = [np.array([row_of[item] for item in e.shown]) for e in entries]
    shown = [shown_worth(log.lists) for log in made]
    found = [_reliability(reaction, "as logged", "mean", truth(rows), shown, 1.0)]
    for name, lists in others.items():
        true = truth([np.array([row_of[i.item_id] for i in one]) for one in lists])
        of_model = [estimate(entries[part], lists[part]) for part in parts]
        support = float(np.mean([one.support.mean for one in of_model]))
        for estimator in ESTIMATORS:
            estimates = [one.by[estimator] for one in of_model]
            found.append(_reliability(reaction, name, estimator, true, estimates, support))
    return found


def _reliability(
    reaction: str,
    model: str,
    estimator: Estimator | str,
    truth: float,
    estimates: Sequence[object],
    support: float,
) -> Reliability:
    means, lows, highs = (
        np.array([getattr(one, name) for one in estimates]) for name in ("mean", "low", "high")
    )
    return Reliability(
        reaction,
        model,
        estimator,
        truth,
        float(means.mean()),
        float(np.sqrt(((means - truth) ** 2).mean())),
        float((highs - lows).mean()),
        float(((lows <= truth) & (truth <= highs)).mean()),
        support,
    )


def show(found: Sequence[Reliability], console: Console) -> None:
    """Print a table."""
    table = Table(
        *("reaction", "model", "estimator", "truth, %", "mean estimate, %", "RMSE"),
        *("width of interval", "coverage, %", "support, %"),
    )
    for one in found:
        shares = (one.truth, one.mean, one.error, one.width)
        table.add_row(
            one.reaction,
            one.model,
            one.estimator,
            *(f"{100 * share:.2f}" for share in shares),
            f"{100 * one.coverage:.1f}",
            f"{100 * one.support:.1f}",
        )
    console.print(table)


def plot(found: Sequence[Reliability], file: Path) -> None:
    """Draw estimates over truths, with their mean intervals."""
    from matplotlib.figure import Figure

    reactions = list(dict.fromkeys(one.reaction for one in found))
    figure = Figure(figsize=(4.6 * len(reactions), 4.4), layout="constrained")
    panels = figure.subplots(1, len(reactions), squeeze=False)[0]
    for axes, reaction in zip(panels, reactions, strict=True):
        of = [one for one in found if one.reaction == reaction]
        truths = [100 * one.truth for one in of]
        axes.axline((min(truths), min(truths)), slope=1, color="grey", linewidth=1)
        for number, estimator in enumerate(["mean", *ESTIMATORS]):
            ours = [one for one in of if one.estimator == estimator]
            axes.errorbar(
                [100 * one.truth + 0.25 * (number - 1.5) for one in ours],
                [100 * one.mean for one in ours],
                yerr=[50 * one.width for one in ours],
                fmt="o",
                markersize=4,
                capsize=2,
                label="as logged" if estimator == "mean" else estimator.upper(),
            )
        for name in dict.fromkeys(one.model for one in of):
            highest = max(one.mean + one.width / 2 for one in of if one.model == name)
            true = next(one.truth for one in of if one.model == name)
            axes.annotate(
                name,
                (100 * true, 100 * highest),
                (0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set(xlabel="truth, %", ylabel="estimate and 95 % interval, %", title=reaction)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=100)
    parser.add_argument("--shoppers", type=int, default=1500, help="of each log")
    parser.add_argument("--epochs", type=int, default=5, help="of each model")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--epsilon", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", type=Path)
    asked = parser.parse_args()
    explores = {n: getattr(asked, n) for n in ("slots", "temperature", "candidates", "epsilon")}
    profile = Profile.model_validate({"exploration": explores})
    size = (profile, asked.logs, asked.shoppers, asked.epochs, asked.seed)
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        jobs = [pool.submit(measure, reaction, *size) for reaction in get_args(Reaction)]
    found = [one for job in jobs for one in job.result()]
    show(found, Console(width=140))
    if asked.png:
        plot(found, asked.png)


if __name__ == "__main__":
    main()
