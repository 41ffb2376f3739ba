"""How fast is a history turned into its recommendations, and what keeps it from being faster?

    nextclick bench scorer --catalogue 50,10k,100k

For each catalogue and micro-batch, in turns within one run:

- *served*: histories of item ids in, rankings out, by the scorer that the worker uses, with a
  model of the default preset (random weights: speed does not depend on them).
- *per candidate*: the source's way, one pass of its network for every pair of history and
  candidate.
- *tower*: the source's network encodes the history once, and its tower runs on every candidate.
- *exact*: the same without a shortlist, where what is served makes one.
- *limit*: the floating-point operations of the network and of its product with the catalogue at the
  speed of a plain matrix product, plus the catalogue read once and the logits written once at the
  speed of a copy, both measured here and now. Kind to what is served where a catalogue fits into a
  cache (the copy does not) and because serving folds some of the network's operations away; unkind
  for small batches, whose thin products no machine computes at its best speed. Softmax, ranking,
  identifiers and starting operators are not in it.

The two slow ways are run on a part of the pairs where there are many, and scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nextclick.bench.models import CLICKS, random_checkpoint
from nextclick.bench.timing import Timing, in_turns
from nextclick.shared.model import BST, Checkpoint, Scorer, SourceBST
from nextclick.shared.model.checkpoint import build
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.fit.presets import preset

TOP_K = 10
_PAIRS = 2560
"""Pairs of history and candidate in one measured pass per candidate."""
_TOWER_PAIRS = 25_600
_BEST = 20
_ASKED = 64
_SQUARE = 1024
"""Rows and columns of the matrix product that stands for the machine's best."""
_COPIED = 32_000_000
"""Float32 numbers copied to measure bandwidth: more than any cache holds."""


@dataclass(frozen=True)
class Machine:
    """What the machine reaches at its best, measured in this run."""

    flops: float
    """Floating-point operations per second of a matrix product."""
    bandwidth: float
    """Bytes per second, read and written."""


@dataclass(frozen=True)
class Row:
    """One catalogue and batch; milliseconds per micro-batch."""

    items: int
    batch: int
    served_ms: float
    clicks_per_second: float
    encode_ms: float
    """Of it, reading the histories."""
    limit_ms: float
    encode_limit_ms: float
    limit_ratio: float
    """How many times longer what is served takes than the limit of the same round; median."""
    tower_ratio: float
    """How many times longer the tower takes."""
    per_candidate_ratio: float
    exact_ratio: float
    recall: float
    """Share of the exact best 20 that is served, over _ASKED windows."""
    megabytes: float
    """Weights and tables in memory."""


def measure(items: int, batch: int, device: torch.device, rounds: int = 5) -> Row:
    """Measure one catalogue and batch."""
    rng = np.random.default_rng(0)
    checkpoint = random_checkpoint(items)
    scorer, model = Scorer(checkpoint, device, TOP_K), checkpoint.model
    assert isinstance(model, BST)
    exact = scorer if scorer.shortlist is None else _exact(checkpoint, device, TOP_K)
    ids = scorer.vocabulary.item_ids
    rows = rng.integers(1, items + 1, (batch, HISTORY_LENGTH))
    histories = [[ids[row - 1] for row in window] for window in rows]
    windows = torch.from_numpy(rows).to(device)

    source = build(preset("source").config(items, CLICKS)).to(device).eval()
    assert isinstance(source, SourceBST)
    pairs = min(_PAIRS, batch * items)
    tower_pairs = min(_TOWER_PAIRS, batch * items)
    with torch.inference_mode():
        encoder = model.serving_encoder(model.catalogue())
        calls = {
            "served": lambda: scorer.recommend(histories),
            "exact": lambda: exact.recommend(histories),
            "encode": lambda: encoder(windows),
            "per candidate": _per_candidate(source, rng, pairs, device),
            "tower": _tower(source, windows, rng, tower_pairs),
            "product": _product(device),
            "copy": _copy(device),
        }
        times = in_turns(calls, device, rounds=rounds)
        encode_flops = _flops(partial(model.encode, windows))
    d = model.config.embed_dim

    def limit(machine: Machine) -> float:
        flops = encode_flops + 2 * batch * items * d
        return flops / machine.flops + 4 * items * (d + batch) / machine.bandwidth

    at_best = _machine(min(times["product"].rounds), min(times["copy"].rounds))
    limits = [
        limit(_machine(product, copy))
        for product, copy in zip(times["product"].rounds, times["copy"].rounds, strict=True)
    ]
    served_time = times["served"]
    return Row(
        items=items,
        batch=batch,
        served_ms=1000 * served_time.median,
        clicks_per_second=batch / served_time.median,
        encode_ms=1000 * times["encode"].median,
        limit_ms=1000 * limit(at_best),
        encode_limit_ms=1000 * encode_flops / at_best.flops,
        limit_ratio=Timing(limits).ratio(served_time),
        tower_ratio=served_time.ratio(times["tower"]) * batch * items / tower_pairs,
        per_candidate_ratio=served_time.ratio(times["per candidate"]) * batch * items / pairs,
        exact_ratio=served_time.ratio(times["exact"]),
        recall=_recall(checkpoint, device, rng),
        megabytes=scorer.bytes / 1e6,
    )


def _exact(checkpoint: Checkpoint, device: torch.device, top_k: int) -> Scorer:
    return Scorer(checkpoint, device, top_k, shortlist_from=len(checkpoint.vocabulary) + 1)


def _recall(checkpoint: Checkpoint, device: torch.device, rng: np.random.Generator) -> float:
    ids = np.array(checkpoint.vocabulary.item_ids, object)
    histories = rng.choice(ids, (_ASKED, HISTORY_LENGTH)).tolist()
    served = Scorer(checkpoint, device, _BEST).recommend(histories)
    exact = _exact(checkpoint, device, _BEST).recommend(histories)
    best = [{item.item_id for item in ranking.items} for ranking in exact]
    found = [
        len(ours & {item.item_id for item in ranking.items}) / len(ours)
        for ours, ranking in zip(best, served, strict=True)
    ]
    return float(np.mean(found))


def _per_candidate(
    source: SourceBST, rng: np.random.Generator, pairs: int, device: torch.device
) -> Callable[[], Tensor]:
    items = source.config.items
    windows = torch.from_numpy(rng.integers(1, items + 1, (pairs, HISTORY_LENGTH))).to(device)
    candidates = torch.from_numpy(rng.integers(1, items + 1, (pairs, 1))).to(device)
    return lambda: source.candidate_logits(windows, candidates)


def _tower(
    source: SourceBST, windows: Tensor, rng: np.random.Generator, pairs: int
) -> Callable[[], Tensor]:
    """Encode, then a tower whose first layer sees session and candidate side by side."""
    each = max(1, pairs // len(windows))
    drawn = rng.integers(1, source.config.items + 1, (len(windows), each))
    candidates = torch.from_numpy(drawn).to(windows.device)

    def run() -> Tensor:
        sessions = source.session(windows).unsqueeze(1).expand(-1, each, -1)
        together = torch.cat([sessions, source.item_embedding(candidates)], dim=-1)
        logits: Tensor = source.tower_out(torch.relu(source.tower_in(together)))
        return logits

    return run


def _product(device: torch.device) -> Callable[[], Tensor]:
    one, other = torch.randn(2, _SQUARE, _SQUARE, device=device)
    return lambda: one @ other


def _copy(device: torch.device) -> Callable[[], Tensor]:
    source, target = torch.randn(2, _COPIED, device=device)
    return lambda: target.copy_(source)


def _machine(product_seconds: float, copy_seconds: float) -> Machine:
    return Machine(2 * _SQUARE**3 / product_seconds, 8 * _COPIED / copy_seconds)


def _flops(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    total: int = counter.get_total_flops()
    return total
