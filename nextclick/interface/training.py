"""Fits and evaluates models, with the same code as the trainer and `nextclick evaluate`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd

from nextclick.interface.clicks import checked
from nextclick.interface.recommender import Recommender, positive
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.item_features import MAX_COLD_ITEMS, Contents
from nextclick.shared.items import content_of
from nextclick.shared.model import select_device
from nextclick.shared.runtime.settings import ClickSettings, SessionSettings, TrainerSettings
from nextclick.shared.schemas import Item
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.methods import MethodOptions, method_factories
from nextclick.trainer.data import (
    ClickLog,
    Split,
    bound_contributions,
    click_log,
    samples,
    weighted,
)
from nextclick.trainer.evaluate import Evaluation, evaluate_model
from nextclick.trainer.evaluate import evaluate as rank_cases
from nextclick.trainer.fit.presets import preset as preset_named
from nextclick.trainer.fit.related import related_lists
from nextclick.trainer.retrain import FitLimits, fit_candidate, learnable_contents, nothing_to_learn

_GAP_SECONDS = SessionSettings().gap_seconds
_SEED, _MAX_SECONDS = TrainerSettings().seed, TrainerSettings().max_fit_seconds


def fit(
    clicks: pd.DataFrame,
    *,
    preset: str = "default",
    seed: int = _SEED,
    gap_seconds: float = _GAP_SECONDS,
    max_epochs: int = 0,
    max_seconds: float = _MAX_SECONDS,
    device: str = "auto",
    event_weights: Mapping[str, float] | None = None,
    label_weights: Mapping[str, float] | None = None,
    bound_users: bool = False,
    items: Mapping[str, Item] | None = None,
    max_cold_items: int = MAX_COLD_ITEMS,
) -> Recommender:
    """Fit a model from scratch, as the trainer does, with a progress bar on a terminal.

    All clicks count, unless `bound_users` is set: then those of bots do not, as in a retraining
    (docs/models.md). Public data sets are compared with all their clicks.

    clicks: columns user_id, item_id, timestamp, and event_type if there are several, as from
    `read_clicks`; rows in order of time, at least within each user. Each user's newest tenth of the
    clicks is left out, for `evaluate`; the tenth before is used for early stopping. gap_seconds:
    pause that ends a session; 0: sessions never end. max_epochs: 0: as in the preset.
    event_weights: event type → weight, on top of the defaults (docs/messages.md); 0: no click.
    label_weights: the same as a target, where that is another one; 0: in histories, but never
    predicted. items: by id, oldest first, as from `read_items`: the model learns from them, too,
    and knows the newest `max_cold_items` of those that are available and that nobody clicked
    (docs/cold-items.md). Raises ConfigurationError for an unknown preset or device, and if no
    session has two clicks or there are fewer than two items.
    """
    recipe, log = (
        preset_named(preset),
        _log(clicks, gap_seconds, event_weights, label_weights, bound_users),
    )
    limits = FitLimits(seed, max_epochs, max_seconds)
    contents = learnable_contents(_contents(items), log, max_cold_items)
    checkpoint = fit_candidate(
        log, None, None, recipe, limits, device=select_device(device), contents=contents
    )
    related = partial(related_lists, log, checkpoint.vocabulary, checkpoint.model)
    return Recommender(checkpoint, device=device, related=related)


def evaluate(
    methods: Recommender | str | Sequence[Recommender | str],
    clicks: pd.DataFrame,
    *,
    ks: Sequence[int] = (5, 10, 20),
    seed: int = 0,
    gap_seconds: float = _GAP_SECONDS,
    max_seconds: float | None = None,
    device: str = "auto",
    event_weights: Mapping[str, float] | None = None,
    label_weights: Mapping[str, float] | None = None,
    bound_users: bool = False,
    items: Mapping[str, Item] | None = None,
) -> pd.DataFrame:
    """Evaluate methods on the clicks that `fit` leaves out: each user's newest tenth.

    methods: a Recommender, the name of a method of `nextclick evaluate` ("popularity", "vsknn",
    "bst", …; "all"), or several of both. A Recommender is evaluated as it is; the others are fitted
    first, on all other clicks, each for at most `max_seconds`. clicks, gap_seconds, event_weights,
    label_weights, bound_users: as given to `fit`, or newer clicks; a Recommender must not have been
    trained on the newest tenth. items: as given to `fit`, for methods that are given by name.

    Returns one row per method with columns hr@k, mrr@k, ndcg@k for each k (0 to 1, over the full
    catalogue, ties count against the method), cases, and seconds (fit and ranking). Raises
    ConfigurationError for an unknown name, and for clicks without a test case.
    """
    log = _log(clicks, gap_seconds, event_weights, label_weights, bound_users)
    contents = learnable_contents(_contents(items), log, MAX_COLD_ITEMS)
    benchmark = Benchmark("clicks", log, contents=contents)
    if len(benchmark.cases) == 0:
        raise ConfigurationError("too few clicks for a test of the newest tenth")
    used = select_device(device)
    options = MethodOptions(["default"], used, max_seconds)
    rows: dict[str, dict[str, float]] = {}
    for method in [methods] if isinstance(methods, Recommender | str) else methods:
        if isinstance(method, Recommender):
            began = time.perf_counter()
            cases = samples(benchmark.log, Split.TEST, method.checkpoint.vocabulary)
            evaluation = evaluate_model(method.checkpoint, cases, used)
            rows[method.name] = _row(evaluation, ks, began)
            continue
        for make in method_factories([method], benchmark, options):
            began, fitted = time.perf_counter(), make()
            fitted.fit(benchmark.learnable, benchmark.vocabulary, seed)
            evaluation = rank_cases(fitted.score, benchmark.popularity, benchmark.cases)
            rows[fitted.name] = _row(evaluation, ks, began)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _row(evaluation: Evaluation, ks: Sequence[int], began: float) -> dict[str, float]:
    names = [f"{metric}@{positive(k)}" for metric in ("hr", "mrr", "ndcg") for k in ks]
    means = {name: float(evaluation.per_case(name).mean()) for name in names}
    return {
        **means,
        "cases": len(evaluation.ranks),
        "seconds": round(time.perf_counter() - began, 3),
    }


def _contents(items: Mapping[str, Item] | None) -> Contents:
    return {item_id: content_of(item) for item_id, item in (items or {}).items()}


def _log(
    clicks: pd.DataFrame,
    gap_seconds: float,
    event_weights: Mapping[str, float] | None,
    label_weights: Mapping[str, float] | None,
    bound_users: bool,
) -> ClickLog:
    frame = weighted(checked(clicks), event_weights, label_weights)
    if bound_users:
        frame, _ = bound_contributions(frame, ClickSettings().max_per_minute)
    log = click_log(frame, int(gap_seconds * 1000))
    if reason := nothing_to_learn(log):
        raise ConfigurationError(reason)
    return log
