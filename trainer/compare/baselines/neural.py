"""The classic neural baselines: a GRU and a causal Transformer over the session.

After GRU4Rec (Hidasi and Karatzoglou, Recurrent Neural Networks with Top-k Gains, CIKM 2018) and
SASRec (Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018). Both read a
session left to right, score the catalogue by the dot product of the last state with the item
embeddings, and are trained on all positions with cross-entropy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nextclick.shared.model import Vocabulary
from nextclick.shared.windows import HISTORY_LENGTH, PADDING, IntArray
from nextclick.trainer.compare.baselines.training import LAST_EPOCH_RATE, LAST_EPOCH_TIME, train
from nextclick.trainer.compare.method import Scores
from nextclick.trainer.data import ClickLog, Samples, Sessions, Split, samples, sessions_of

_BATCH = 256
"""Segments per training step."""
_VALIDATION_CASES = 10_000
"""Most validation cases for early stopping."""


class GRU4Rec(nn.Module):
    """One GRU layer over item embeddings, which are also the output weights."""

    def __init__(self, items: int, dim: int = 100, dropout: float = 0.25) -> None:
        super().__init__()
        self.embedding = _item_embedding(items, dim)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """Read right-padded rows [B, L]: the state after each click, shape [B, L, dim]."""
        states, _ = self.gru(self.dropout(self.embedding(rows)))
        dropped: Tensor = self.dropout(states)
        return dropped


class SASRec(nn.Module):
    """A Transformer with causal self-attention."""

    def __init__(
        self, items: int, dim: int = 100, heads: int = 2, layers: int = 2, dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.embedding = _item_embedding(items, dim)
        self.position = nn.Parameter(0.02 * torch.randn(HISTORY_LENGTH, dim))
        layer = nn.TransformerEncoderLayer(
            dim, heads, dim, dropout, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """Read right-padded rows [B, L]: the state after each click, shape [B, L, dim].

        Padding needs no mask: it is on the right, and attention is causal.
        """
        length = rows.shape[1]
        ahead = torch.ones(length, length, dtype=torch.bool, device=rows.device).triu(1)
        embedded = self.embedding(rows) + self.position[:length]
        states: Tensor = self.encoder(self.dropout(embedded), mask=ahead)
        return states


class SequenceModel:
    """A method with one of the networks above."""

    def __init__(
        self,
        name: str,
        network: Callable[[int], GRU4Rec | SASRec],
        *,
        epochs: int = 8,
        max_seconds: float = 600.0,
        negatives: int = 2048,
        learning_rate: float = 3e-3,
        device: torch.device | None = None,
    ) -> None:
        """network: makes the network for a catalogue size. max_seconds: longest fit.

        For a catalogue of more than `negatives` items, each step uses that many sampled ones.
        """
        self.name = name
        self.network = network
        self.epochs = epochs
        self.max_seconds = max_seconds
        self.negatives = negatives
        self.learning_rate = learning_rate
        self.device = device or torch.device("cpu")

    def fit(self, log: ClickLog, vocabulary: Vocabulary, seed: int) -> None:
        """Train with early stopping, then one epoch on training and validation clicks."""
        deadline = time.monotonic() + self.max_seconds
        rng = np.random.default_rng(seed)
        held_out = samples(log, Split.VALIDATION, vocabulary)
        held_out = held_out.take(rng.permutation(len(held_out))[:_VALIDATION_CASES])
        share = log.counts(vocabulary) ** 0.75
        self._share = share / share.sum()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._model = self.network(len(vocabulary)).to(self.device)
            self._train(
                sessions_of(log, vocabulary, (Split.TRAIN,)),
                held_out,
                rng,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                deadline=deadline - LAST_EPOCH_TIME * self.max_seconds,
            )
            if len(held_out):
                self._train(
                    sessions_of(log, vocabulary),
                    held_out.take(np.zeros(0, np.int64)),
                    rng,
                    epochs=1,
                    learning_rate=self.learning_rate * LAST_EPOCH_RATE,
                    deadline=deadline,
                )

    def score(self, cases: Samples) -> Scores:
        """Score by the dot product with the last state: shape [B, items]."""
        with torch.inference_mode():
            scores = self._logits(cases.histories)
        return np.asarray(scores.cpu().numpy(), np.float32)

    def _train(
        self,
        sessions: Sessions,
        held_out: Samples,
        rng: np.random.Generator,
        *,
        epochs: int,
        learning_rate: float,
        deadline: float,
    ) -> None:
        steps = -(-len(segments(sessions, None)) // _BATCH)
        train(
            self._model,
            lambda: self._losses(sessions, steps, rng),
            steps,
            (lambda: self._validation_loss(held_out)) if len(held_out) else None,
            learning_rate=learning_rate,
            epochs=epochs if steps else 0,
            deadline=deadline,
        )

    def _losses(self, sessions: Sessions, steps: int, rng: np.random.Generator) -> Iterator[Tensor]:
        """Mean cross-entropy of each batch of one epoch."""
        table = segments(sessions, rng)
        for index in np.array_split(rng.permutation(len(table)), steps):
            clicks = torch.from_numpy(table[index]).to(self.device)
            clicks = clicks[:, (clicks != PADDING).any(dim=0)]
            is_target = clicks[:, 1:] != PADDING
            states = self._model(clicks[:, :-1])[is_target]
            yield self._cross_entropy(states, clicks[:, 1:][is_target], rng)

    def _cross_entropy(self, states: Tensor, targets: Tensor, rng: np.random.Generator) -> Tensor:
        """Cross-entropy over the catalogue, or target and sampled items (Jean et al., ACL 2015)."""
        weight = self._model.embedding.weight
        if len(self._share) <= self.negatives:
            return functional.cross_entropy(states @ weight[1:].T, targets - 1)
        drawn = np.searchsorted(np.cumsum(self._share)[:-1], rng.random(self.negatives)) + 1
        sampled = torch.from_numpy(drawn).to(self.device)
        log_share = torch.from_numpy(np.log(self._share)).to(self.device, weight.dtype)
        both = weight[torch.cat([targets, sampled])]  # one look-up, because its gradient is dense
        own = (states * both[: len(targets)]).sum(dim=1) - log_share[targets - 1]
        others = states @ both[len(targets) :].T - log_share[sampled - 1]
        others = others.masked_fill(targets[:, None] == sampled, float("-inf"))
        logits = torch.cat([own[:, None], others], dim=1)
        return functional.cross_entropy(logits, torch.zeros_like(targets))

    def _validation_loss(self, cases: Samples) -> float:
        """Mean −log P(next click) over the whole catalogue."""
        loss = 0.0
        for index in np.array_split(np.arange(len(cases)), -(-len(cases) // 512)):
            part = cases.take(index)
            targets = torch.from_numpy(part.targets - 1).to(self.device)
            logits = self._logits(part.histories)
            loss += functional.cross_entropy(logits, targets, reduction="sum").item()
        return loss / len(cases)

    def _logits(self, histories: IntArray) -> Tensor:
        """Score left-padded histories [B, HISTORY_LENGTH]: shape [B, items]."""
        known = histories != PADDING
        to_the_left = np.argsort(~known, axis=1, kind="stable")
        rows = torch.from_numpy(np.take_along_axis(histories, to_the_left, axis=1))
        newest = torch.from_numpy(np.maximum(known.sum(axis=1) - 1, 0))
        states = self._model(rows.to(self.device))[torch.arange(len(rows)), newest]
        logits: Tensor = states @ self._model.embedding.weight[1:].T
        return logits


def segments(sessions: Sessions, rng: np.random.Generator | None) -> IntArray:
    """Cut sessions into segments of at most HISTORY_LENGTH + 1 clicks that overlap by one.

    Returns right-padded rows, shape [M, HISTORY_LENGTH + 1]. Every click but the first of a session
    is a target exactly once. With `rng`, long sessions are cut at random places.
    """
    step = np.arange(len(sessions.rows)) - sessions.starts
    shift = np.zeros(len(sessions), np.int64)
    if rng is not None:
        long = sessions.lengths > HISTORY_LENGTH + 1
        shift = np.where(long, rng.integers(0, HISTORY_LENGTH, len(sessions)), 0)
    targets = np.flatnonzero(step > 0)
    piece = (step - 1 + shift[sessions.number])[targets] // HISTORY_LENGTH
    session = sessions.number[targets]
    opens = (np.diff(piece, prepend=-1) != 0) | (np.diff(session, prepend=-1) != 0)
    first = np.flatnonzero(opens)
    lengths = np.diff(first, append=len(targets)) + 1
    cells = np.arange(HISTORY_LENGTH + 1)
    index = (targets[first] - 1)[:, None] + cells
    inside = cells < lengths[:, None]
    return np.where(inside, sessions.rows[np.where(inside, index, 0)], PADDING)


def _item_embedding(items: int, dim: int) -> nn.Embedding:
    embedding = nn.Embedding(items + 1, dim, padding_idx=PADDING)
    nn.init.normal_(embedding.weight, std=dim**-0.5)
    return embedding
