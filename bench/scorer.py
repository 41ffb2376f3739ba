"""Speed of the scorer, from histories to rankings, compared with slower ways and the machine.

    nextclick bench scorer --catalogue 50,10k,100k

For each catalogue and micro-batch size, in turns within one run:

- *served*: histories of item ids in, rankings out, by the scorer that the worker uses, with a
  model of the default preset (random weights, which do not affect speed).
- *per candidate*: as in the source, one pass of its network for every pair of history and
  candidate.
- *tower*: the source's network encodes the history once, and its tower runs on every candidate.
- *exact*: the served scorer without its shortlist, if it uses one.
- *profiles*: the served lists, and those under one and under three profiles, from one pass.
- *limit*: an estimate of the shortest possible time: the floating-point operations of the network
  and of its product with the catalogue at the speed of a plain matrix product, plus reading the
  catalogue and writing the logits once at the speed of a copy, both measured in the same run.
  Softmax, ranking, item ids and the launch of operators are not included. The estimate is too high
  if the catalogue fits into a cache, and because serving folds some operations away; it is too low
  for small batches, whose narrow products do not reach the full speed.

The two slow ways are run on a sample of the pairs, and scaled.
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
from nextclick.bench.profiles import PROFILES
from nextclick.bench.profiles import item as make_item
from nextclick.bench.timing import Timing, in_turns
from nextclick.shared.items import NOTHING_KNOWN, ItemAttributes, attributes_of
from nextclick.shared.model import BST, Checkpoint, Constraints, Scorer, SourceBST
from nextclick.shared.model.checkpoint import build
from nextclick.shared.profiles import Profile
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.fit.presets import preset

TOP_K = 10
_PAIRS = 2560
"""Most pairs of history and candidate in a measured pass of *per candidate*."""
_TOWER_PAIRS = 25_600
_RECALL_K = 20
_RECALL_WINDOWS = 64
_SQUARE = 1024
"""Rows and columns of the plain matrix product."""
_COPIED = 32_000_000
"""Float32 numbers copied to measure bandwidth; more than fit into a cache."""


@dataclass(frozen=True)
class Machine:
    """Speed of the machine, measured in the same run."""

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
    """The part of served_ms for encoding the histories."""
    limit_ms: float
    encode_limit_ms: float
    limit_ratio: float
    """Median over the rounds of served / limit."""
    tower_ratio: float
    """Median over the rounds of tower / served; likewise for the next two fields."""
    per_candidate_ratio: float
    exact_ratio: float
    recall: float
    """Share of the exact best 20 in the served lists, over some windows."""
    megabytes: float
    """Memory of weights and tables."""
    profile_us: dict[int, float]
    """Number of profiles → microseconds per click, median over the rounds; 0: the served lists."""


def measure(items: int, batch: int, device: torch.device, rounds: int = 5) -> Row:
    """Measure one catalogue and batch size."""
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
    known = {item.item_id: attributes_of(item) for item in map(make_item, range(1, items + 1))}
    attributes = NOTHING_KNOWN.changed(known)
    one, three = (_kinds(scorer, PROFILES[:n], attributes, batch) for n in (1, 3))
    with torch.inference_mode():
        encoder = model.serving_encoder(model.catalogue())
        calls = {
            "served": lambda: scorer.recommend(histories),
            "exact": lambda: exact.recommend(histories),
            "encode": lambda: encoder(windows),
            "1 profile": lambda: scorer.recommend_each(histories, one),
            "3 profiles": lambda: scorer.recommend_each(histories, three),
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

    fastest_round = _machine(min(times["product"].rounds), min(times["copy"].rounds))
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
        limit_ms=1000 * limit(fastest_round),
        encode_limit_ms=1000 * encode_flops / fastest_round.flops,
        limit_ratio=Timing(limits).ratio(served_time),
        tower_ratio=served_time.ratio(times["tower"]) * batch * items / tower_pairs,
        per_candidate_ratio=served_time.ratio(times["per candidate"]) * batch * items / pairs,
        exact_ratio=served_time.ratio(times["exact"]),
        recall=_recall(checkpoint, device, rng),
        megabytes=scorer.bytes / 1e6,
        profile_us={
            number: 1e6 * times[name].median / batch
            for number, name in ((0, "served"), (1, "1 profile"), (3, "3 profiles"))
        },
    )


def _kinds(
    scorer: Scorer, profiles: list[Profile], attributes: ItemAttributes, batch: int
) -> list[list[Constraints] | None]:
    """Lists without constraints, and one kind under each profile."""
    under = [scorer.prepare([profile], attributes)(TOP_K, False) for profile in profiles]
    return [None, *([constraints] * batch for constraints in under)]


def _exact(checkpoint: Checkpoint, device: torch.device, top_k: int) -> Scorer:
    return Scorer(checkpoint, device, top_k, shortlist_from=len(checkpoint.vocabulary) + 1)


def _recall(checkpoint: Checkpoint, device: torch.device, rng: np.random.Generator) -> float:
    ids = np.array(checkpoint.vocabulary.item_ids, object)
    histories = rng.choice(ids, (_RECALL_WINDOWS, HISTORY_LENGTH)).tolist()
    served = Scorer(checkpoint, device, _RECALL_K).recommend(histories)
    exact = _exact(checkpoint, device, _RECALL_K).recommend(histories)
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
    """Encode each session once; then run the full tower on each of its candidates."""
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
