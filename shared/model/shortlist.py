"""The best of a very large catalogue: all of it scanned roughly, the best part scored exactly.

With a million items the time goes into computing and ranking numbers of which ten are kept. So the
scan multiplies in bfloat16 where the processor can, and looks only at the maximum of every _BLOCK
columns; the items of the best blocks are then scored as always. But for rounding, a block that
holds one of the best k items is itself one of the best k blocks, so a shortlist of many more
misses next to nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from nextclick.shared.model.bst import BST
from nextclick.shared.model.bst_network import Sessions
from nextclick.shared.model.session_model import Encoder

_BLOCK = 16
_BLOCKS_KEPT = 64
MOST = _BLOCKS_KEPT
"""The most items that may be asked for."""
_CHUNK = 16_384
"""Columns scanned at once, a multiple of _BLOCK: for 64 windows their scores fill 4 MB."""
_APART = _CHUNK // _BLOCK
"""Distance of a block's columns: maxima of neighbouring ones would cost ten times as much."""
_LOWEST = -1e9
_LOG2_E = math.log2(math.e)


class Shortlist:
    """Ranks the catalogue of one BST on a CPU."""

    def __init__(self, model: BST, encoder: Encoder, catalogue: Tensor) -> None:
        """catalogue: what the model computed, shape [items, embed_dim]."""
        self._encode = encoder
        self._neighbours = model.neighbours
        self._catalogue = catalogue
        can = torch.cpu.get_capabilities()
        halves = can.get("avx512_bf16") or can.get("amx_bf16")
        self.rough = catalogue.bfloat16() if halves else catalogue

    def top(self, histories: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """log P and columns of the best k ≤ MOST items for windows [B, L], best first.

        Items that the session itself speaks for, its own and their neighbours, are always among
        those that are scored exactly. What all others have of the probability together is taken
        from the scan: they are many and small, so their rounding averages out.
        """
        sessions = Sessions(*self._encode(histories))
        maxima, sums = self._scan(sessions.queries)
        kept = maxima.topk(_BLOCKS_KEPT, dim=1).indices
        others = sums.scatter(1, kept, -torch.inf).logsumexp(dim=1, keepdim=True)
        voted, votes = self._neighbours.ballot(histories)
        columns = torch.cat([self._members(kept), sessions.bonus_columns, voted], dim=1)
        columns = columns.sort(dim=1).values
        again = functional.pad(columns[:, 1:] == columns[:, :-1], (1, 0), value=False)

        def added_up(at: Tensor, values: Tensor) -> Tensor:
            """Values [B, N] of columns [B, N], added up where a column comes first."""
            return torch.zeros_like(logits).scatter_add_(1, torch.searchsorted(columns, at), values)

        logits = _products(sessions.queries, self._catalogue[columns])
        logits += added_up(sessions.bonus_columns, sessions.bonus)
        # Columns outside of the blocks kept are among the others too, as the scan saw them.
        inside = torch.zeros_like(sums, dtype=torch.bool).scatter_(1, kept, value=True)
        counted = again | inside.gather(1, columns // _CHUNK * _APART + columns % _APART)
        roughly = _products(sessions.queries.to(self.rough.dtype), self.rough[columns])
        most = logits.amax(dim=1, keepdim=True)
        twice = (roughly - most).exp().masked_fill_(counted, 0.0).sum(dim=1, keepdim=True)
        exact = (logits - most).exp().masked_fill_(again, 0.0).sum(dim=1, keepdim=True)
        total = most + ((others - most).exp().sub_(twice).clamp_(min=0.0) + exact).log()
        scores = self._neighbours.mixed(logits - total, added_up(voted, votes))
        best = scores.masked_fill_(again, -torch.inf).topk(k, dim=1)
        return best.values, columns.gather(1, best.indices)

    def _scan(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The largest score of every block and the logsumexp of its scores, both [B, blocks]."""
        rough = queries.to(self.rough.dtype)
        maxima, sums = [], []
        for chunk in torch.split(self.rough, _CHUNK):
            scores = (rough @ chunk.T).float()
            if len(chunk) < _CHUNK:
                scores = functional.pad(scores, (0, _CHUNK - len(chunk)), value=_LOWEST)
            scores = scores.view(len(scores), _BLOCK, _APART)
            highest = scores.amax(dim=1)
            most = highest.amax(dim=1, keepdim=True)
            # exp2 takes a third of the time that exp does.
            powers = scores.sub_(most.unsqueeze(1)).mul_(_LOG2_E).exp2_()
            maxima.append(highest)
            sums.append(powers.sum(dim=1).log_().add_(most))
        return torch.cat(maxima, dim=1), torch.cat(sums, dim=1)

    def _members(self, blocks: Tensor) -> Tensor:
        """Columns of blocks [B, N]: [B, N · _BLOCK]; past the catalogue's end its last."""
        first = blocks // _APART * _CHUNK + blocks % _APART
        members = first.unsqueeze(-1) + _APART * torch.arange(_BLOCK)
        return members.clamp(max=len(self._catalogue) - 1).flatten(1)


def _products(queries: Tensor, items: Tensor) -> Tensor:
    """Products of queries [B, d] with items [B, N, d] of their own: [B, N], float32."""
    return (items @ queries.unsqueeze(-1)).squeeze(-1).float()
