"""Fit, ask, evaluate, publish: the trainer's, the worker's and the registry's own code paths."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

import pandas as pd
import torch

from nextclick.interface.clicks import checked
from nextclick.shared.errors import ConfigurationError, NextclickError
from nextclick.shared.model import Checkpoint, Choice, Explanation, Scorer, select_device
from nextclick.shared.model.explain import explain
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import SessionSettings, Settings, TrainerSettings
from nextclick.shared.schemas import ScoredItem
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.methods import MethodOptions, factories
from nextclick.trainer.data import ClickLog, Split, click_log, samples
from nextclick.trainer.evaluate import Evaluation, evaluate_model
from nextclick.trainer.evaluate import evaluate as rank_cases
from nextclick.trainer.fit.presets import preset as preset_named
from nextclick.trainer.retrain import FitLimits, fit_candidate, nothing_to_learn

_GAP_SECONDS = SessionSettings().gap_seconds
_SEED, _MAX_SECONDS = TrainerSettings().seed, TrainerSettings().max_fit_seconds
_TOP_K = 10


class Recommender:
    """A fitted model: histories in, ranked items out, as a worker answers them."""

    def __init__(
        self, checkpoint: Checkpoint, *, version: str | None = None, device: str = "auto"
    ) -> None:
        """Wrap a checkpoint; `fit` and `from_registry` do so.

        device: auto (MPS, CUDA, CPU in that order) or a torch name. Raises ConfigurationError for
        a device that is not there, CheckpointError for a model that gives no finite scores.
        """
        self.checkpoint = checkpoint
        self.version = version
        """Its name in the registry that it came from or went to last; None: in none."""
        self._scorer = Scorer(checkpoint, select_device(device), _TOP_K)

    def __repr__(self) -> str:
        return f"<Recommender {self.name}: {len(self.items):,} items>"

    @classmethod
    def from_registry(
        cls, registry: Registry | str, version: str | None = None, *, device: str = "auto"
    ) -> Recommender:
        """Load a version, by default the current one: that which the workers serve.

        registry: a folder or any fsspec URL, or what `open_registry` gave. Raises NextclickError
        if there is no version yet, CheckpointError if it is missing or broken, Unavailable if the
        registry cannot be read.
        """
        registry = _opened(registry)
        if version is None:
            pointer = registry.pointer()
            if pointer is None:
                raise NextclickError(f"the registry {registry.url} has no model yet")
            version = pointer.version
        return cls(registry.load(version), version=version, device=device)

    def publish(self, registry: Registry | str) -> str:
        """Write a new version and make it current: running workers swap to it within seconds.

        No gate judges it, as the trainer's would. Returns the version's name. Raises Unavailable
        if the registry cannot be written.
        """
        self.version = _opened(registry).publish(self.checkpoint)
        return self.version

    @property
    def name(self) -> str:
        """Its version, or what it was fitted with."""
        return self.version or f"BST {self.checkpoint.preset}"

    @property
    def items(self) -> list[str]:
        """The catalogue: every item that can be recommended."""
        return self.checkpoint.vocabulary.item_ids

    def recommend(
        self,
        history: Iterable[str],
        k: int = _TOP_K,
        *,
        exclude: Collection[str] = (),
        without_history: bool = False,
    ) -> list[ScoredItem]:
        """The k likeliest next clicks after a history, best first; fewer if fewer are allowed.

        history: item ids, oldest first; the model sees the newest 10. Where it knows none of
        them, popular items are the answer. exclude: items never to list. without_history: leave out
        what the model sees of the history, too. A score is P(next click), over the whole catalogue.
        """
        excluded = None
        if rows := [row for row in self.checkpoint.vocabulary.rows(_ids(exclude)) if row]:
            excluded = torch.zeros(len(self.items), dtype=torch.bool, device=self._scorer.device)
            excluded[torch.tensor(rows, device=self._scorer.device) - 1] = True
        choice = Choice(_positive(k), excluded, without_history)
        (ranking,) = self._scorer.recommend([_ids(history)], [choice])
        return ranking.items

    def similar(self, item: str, k: int = _TOP_K) -> list[ScoredItem]:
        """The k items whose vectors point the most the same way, best first, without the item.

        A score is the cosine of two vectors, from −1 to 1. Raises ValueError for an item that is
        not in the catalogue.
        """
        (row,) = self.checkpoint.vocabulary.rows([str(item)])
        if row == 0:
            raise ValueError(f"{item!r} is not among the model's {len(self.items):,} items")
        with torch.inference_mode():
            vectors = self.checkpoint.model.item_vectors()
            cosines = vectors @ vectors[row - 1]
            cosines[row - 1] = -torch.inf
            best = torch.topk(cosines, min(_positive(k), len(self.items) - 1))
        found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [ScoredItem(self.items[column], cosine) for column, cosine in found]

    def explain(self, history: Iterable[str], k: int = _TOP_K) -> Explanation:
        """Recommend, and say what each click of the history contributed to each item, in nats.

        `contributions[i][j]` is by how much click j of `history` (the newest 10) raises
        log P(items[i]): 0.69 doubles the probability, −0.69 halves it.
        """
        return explain(self._scorer, _ids(history), _positive(k))


def open_registry(url: str | None = None) -> Registry:
    """Open a model registry: a folder or any fsspec URL; None: the one that the settings name.

    Nothing is read or written yet. Raises ConfigurationError if no package serves the URL.
    """
    return Registry(Settings.from_environment().registry.url if url is None else url)


def fit(
    clicks: pd.DataFrame,
    *,
    preset: str = "default",
    seed: int = _SEED,
    gap_seconds: float = _GAP_SECONDS,
    max_epochs: int = 0,
    max_seconds: float = _MAX_SECONDS,
    device: str = "auto",
    progress: bool = False,
) -> Recommender:
    """Fit a model from nothing, as the trainer does: on all but each user's newest clicks.

    clicks: columns user_id, item_id, timestamp, as `read_clicks` gives them; rows in the order of
    time, at least within each user. The newest tenth of the clicks is left to `evaluate`, the tenth
    before chooses when to stop. gap_seconds: the pause that ends a session; 0 = none does.
    max_epochs: 0 = the preset's. Raises ConfigurationError for an unknown preset or device, and for
    clicks in which there is nothing to learn.
    """
    recipe, log = preset_named(preset), _log(clicks, gap_seconds)
    limits = FitLimits(seed, max_epochs, max_seconds)
    checkpoint = fit_candidate(
        log, None, None, recipe, limits, device=select_device(device), progress=progress
    )
    return Recommender(checkpoint, device=device)


def evaluate(
    methods: Recommender | str | Sequence[Recommender | str],
    clicks: pd.DataFrame,
    *,
    ks: Sequence[int] = (5, 10, 20),
    seed: int = 0,
    gap_seconds: float = _GAP_SECONDS,
    max_seconds: float | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """How well methods rank the clicks that `fit` left out: each user's newest, a tenth of all.

    methods: a Recommender, the name of a method of `nextclick evaluate` ("popularity", "vsknn",
    "bst", …; "all"), or several of both. A Recommender is asked as it is, the others are fitted
    first on all clicks but the newest tenth, each for at most `max_seconds`. clicks, gap_seconds:
    those that a Recommender was fitted on, or newer ones; older ones it has seen.

    Returns a row a method and columns hr@k, mrr@k, ndcg@k for each k (0 to 1, over the full
    catalogue, ties against the method), cases, and seconds (of fit and ranking). Raises
    ConfigurationError for an unknown name, and for clicks that leave nothing to evaluate on.
    """
    benchmark = Benchmark("clicks", _log(clicks, gap_seconds))
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
        for make in factories([method], benchmark, options):
            began, fitted = time.perf_counter(), make()
            fitted.fit(benchmark.learnable, benchmark.vocabulary, seed)
            evaluation = rank_cases(fitted.score, benchmark.popularity, benchmark.cases)
            rows[fitted.name] = _row(evaluation, ks, began)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _row(evaluation: Evaluation, ks: Sequence[int], began: float) -> dict[str, float]:
    names = [f"{metric}@{_positive(k)}" for metric in ("hr", "mrr", "ndcg") for k in ks]
    means = {name: float(evaluation.per_case(name).mean()) for name in names}
    return {
        **means,
        "cases": len(evaluation.ranks),
        "seconds": round(time.perf_counter() - began, 3),
    }


def _log(clicks: pd.DataFrame, gap_seconds: float) -> ClickLog:
    log = click_log(checked(clicks), int(gap_seconds * 1000))
    if reason := nothing_to_learn(log):
        raise ConfigurationError(reason)
    return log


def _opened(registry: Registry | str) -> Registry:
    return registry if isinstance(registry, Registry) else Registry(registry)


def _ids(items: Iterable[str]) -> list[str]:
    if isinstance(items, str):
        raise TypeError(f"a list of item ids is needed, not {items!r}")
    return [str(item) for item in items]


def _positive(k: int) -> int:
    if k < 1:
        raise ValueError(f"k = {k}: at least 1")
    return k
