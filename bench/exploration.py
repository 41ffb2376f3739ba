"""Does exploration pay? A shop with items that start cold, with drawn places and without.

    make bench-exploration ARGS="--png exploration.png"

A shop adds items, of which only the category is known. Shoppers click what they want if it is in
their list; of what is not there they find little. After each round the model is fitted anew to all
clicks. It cannot know which of the new items of a category are wanted before they were shown. What
is measured is the worth of the lists *without* drawn places, on the visits of all shoppers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from nextclick.bench.off_policy import CPU, K, fit, lists_of, simulate
from nextclick.bench.reactive_shop import Shop, click_frame
from nextclick.services.evaluate.off_policy import LoggedList
from nextclick.shared.item_features import ItemContent
from nextclick.shared.model import Scorer
from nextclick.shared.profiles import Profile
from nextclick.shared.schemas import ScoredItem
from nextclick.shared.windows import IntArray

_ROUND_MS = 10_000_000
_VISITS = 400
"""Sessions on which lists are judged."""


@dataclass(frozen=True)
class Round:
    """One model, and the lists of the shoppers from whom the next one learns."""

    lists: str
    """What the shoppers are shown."""
    seed: int
    number: int
    """How many rounds of clicks the model has learned from, beside those of the old shop."""
    hr_at_10: float
    """Share of visits whose next click is in the model's list of ten."""
    hr_at_10_new: float
    """The same for visits whose next click is on a new item."""
    shown_hr_at_10: float
    """Of the lists as they are shown, drawn places included."""


def measure(
    lists: str,
    profile: Profile | None,
    rounds: int,
    shoppers: int,
    search: float,
    epochs: int,
    seed: int,
) -> list[Round]:
    """Play so many rounds; the same shop and visits for every profile."""
    shop = Shop(items=120, search=search, group_size=30, seed=seed)
    contents = {
        item: ItemContent(categories=(f"category {row // shop.group_size}",))
        for row, item in enumerate(shop.ids)
    }
    rng = np.random.default_rng(seed)
    new = rng.choice(shop.items, shop.items // 4, replace=False)
    old_shop, row_of = shop.without(new), {item: row for row, item in enumerate(shop.ids)}
    visits = shop.organic_clicks(_VISITS, 4, seed + 1)
    histories = [
        list(items[:-1]) for items in visits.groupby("user_id", sort=False)["item_id"].agg(list)
    ]
    last = [row_of[history[-1]] for history in histories]
    frames = [old_shop.organic_clicks(shoppers * 2, 5, seed + 2)]
    found = []
    for number in range(rounds + 1):
        checkpoint = fit(pd.concat(frames, ignore_index=True), epochs, seed, contents)
        scorer = Scorer(checkpoint, CPU, K)
        (log,) = simulate(shop, scorer, profile, shoppers, seed + 10 + number)
        plain = [_rows(one, row_of) for one in lists_of(scorer, histories)]
        shown = [np.array([row_of[item] for item in one.shown]) for one in log.lists]
        found.append(
            Round(
                lists,
                seed,
                number,
                _mean([shop.worth(at, row) for at, row in zip(last, plain, strict=True)]),
                _share_of(shop, last, plain, new),
                _mean([shop.worth(at, row) for at, row in zip(log.last, shown, strict=True)]),
            )
        )
        frames.append(_clicks(log.lists, shop, row_of, number))
    return found


def _rows(items: Sequence[ScoredItem], row_of: dict[str, int]) -> IntArray:
    return np.array([row_of[item.item_id] for item in items])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _share_of(shop: Shop, last: Sequence[int], lists: Sequence[IntArray], new: IntArray) -> float:
    """Of the wanted clicks on new items, the share whose item is listed."""
    wanted = sum(float(shop.wanted[at, new].sum()) for at in last)
    listed = sum(
        float(shop.wanted[at, np.intersect1d(rows, new)].sum())
        for at, rows in zip(last, lists, strict=True)
    )
    return listed / wanted


def _clicks(
    lists: Sequence[LoggedList], shop: Shop, row_of: dict[str, int], number: int
) -> pd.DataFrame:
    """What the shoppers of a round clicked."""
    sessions: dict[str, list[str]] = {}
    for one in lists:
        sessions[one.user_id] = [*one.history, *([one.clicked] if one.clicked else [])]
    rows = np.full((len(sessions), max(map(len, sessions.values()))), -1)
    for row, items in zip(rows, sessions.values(), strict=True):
        row[: len(items)] = [row_of[item] for item in items]
    return click_frame(rows, shop.ids, f"round {number}", (1 + number) * _ROUND_MS)


def show(found: Sequence[Round], console: Console) -> None:
    """Print a table: means over seeds."""
    table = Table("lists", "rounds learned", "HR@10, %", "on new items, %", "as shown, %", "seeds")
    for (lists, number), rows in pd.DataFrame(map(vars, found)).groupby(
        ["lists", "number"], sort=False
    ):
        means = rows[["hr_at_10", "hr_at_10_new", "shown_hr_at_10"]].mean()
        table.add_row(str(lists), str(number), *(f"{100 * m:.1f}" for m in means), str(len(rows)))
    console.print(table)


def plot(found: Sequence[Round], file: Path) -> None:
    """Draw HR@10 over rounds, on all visits and on those that want a new item."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    table = pd.DataFrame(map(vars, found))
    titles = {"hr_at_10": "all clicks", "hr_at_10_new": "clicks on new items"}
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        for lists, rows in table.groupby("lists", sort=False):
            by_round = rows.groupby("number")[column]
            mean = 100 * by_round.mean()
            axes.plot(mean.index, mean, marker="o", markersize=3.5, label=lists)
            axes.fill_between(mean.index, 100 * by_round.min(), 100 * by_round.max(), alpha=0.15)
        axes.set(xlabel="rounds learned from", ylabel="HR@10 of the best ten, %", title=title)
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Play, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--shoppers", type=int, default=1500, help="of each round")
    parser.add_argument("--search", type=float, default=0.02)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--png", type=Path)
    asked = parser.parse_args()
    profiles = {
        "without exploration": None,
        "1 drawn, 2 new": {"slots": 1, "new_slots": 2},
    }
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        jobs = [
            pool.submit(
                measure,
                name,
                None if part is None else Profile.model_validate({"exploration": part}),
                asked.rounds,
                asked.shoppers,
                asked.search,
                asked.epochs,
                seed,
            )
            for name, part in profiles.items()
            for seed in range(asked.seeds)
        ]
    found = [one for job in jobs for one in job.result()]
    show(found, Console(width=100))
    if asked.png:
        plot(found, asked.png)


if __name__ == "__main__":
    main()
