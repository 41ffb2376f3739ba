"""The best of a very large catalogue: all of it scanned roughly, the best part scored exactly.

With a million items the time goes into computing and ranking numbers of which ten are kept. So the
scan multiplies in bfloat16 where the processor can, and looks only at the maximum of every _BLOCK
columns; the items of the best blocks are then scored as always. But for rounding, a block that
holds one of the best k items is itself one of the best k blocks, so a shortlist of many more
misses next to nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from shared.bst import BST
from shared.bst_network import Sessions
from shared.session_model import Encoder

_BLOCK = 16
_BLOCKS_KEPT = 64
MOST = _BLOCKS_KEPT
"""The most items that may be asked for."""
_CHUNK = 16_384
"""Columns scanned at once, a multiple of _BLOCK: for 64 windows their scores fill 4 MB."""
_LOWEST = -1e9


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
        """log P and columns of the best k ≤ MOST items for windows [B, HISTORY_LENGTH], best first.

        Items that the session itself speaks for, its own and their neighbours, are always among
        those that are scored exactly. What all others have of the probability together is taken
        from the scan.
        """
        sessions = Sessions(*self._encode(histories))
        blocks, total = self._scan(sessions.queries)
        voted, votes = self._neighbours.ballot(histories)
        columns, _ = torch.cat([blocks, sessions.bonus_columns, voted], dim=1).sort(dim=1)
        again = functional.pad(columns[:, 1:] == columns[:, :-1], (1, 0), value=False)

        def sums(at: Tensor, values: Tensor) -> Tensor:
            """Values [B, N] of columns [B, N], added up where a column comes first."""
            return torch.zeros_like(logits).scatter_add_(1, torch.searchsorted(columns, at), values)

        logits = _products(sessions.queries, self._catalogue[columns]) - total
        roughly = _products(sessions.queries.to(self.rough.dtype), self.rough[columns]) - total
        logits += sums(sessions.bonus_columns, sessions.bonus)
        corrected = (logits.exp() - roughly.exp()).masked_fill_(again, 0.0).sum(dim=1, keepdim=True)
        scores = self._neighbours.mixed(logits - corrected.log1p(), sums(voted, votes))
        best = scores.masked_fill_(again, -torch.inf).topk(k, dim=1)
        return best.values, columns.gather(1, best.indices)

    def _scan(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Columns of the best blocks [B, _BLOCKS_KEPT · _BLOCK]; logsumexp of all scores [B, 1].

        Where the catalogue ends a column may come more than once.
        """
        rough = queries.to(self.rough.dtype)
        maxima, totals = [], []
        for chunk in torch.split(self.rough, _CHUNK):
            scores = (rough @ chunk.T).float()
            totals.append(torch.logsumexp(scores, dim=1, keepdim=True))
            scores = functional.pad(scores, (0, _CHUNK - len(chunk)), value=_LOWEST)
            # A block's columns lie apart: maxima of neighbouring ones would cost ten times as much.
            maxima.append(scores.view(len(scores), _BLOCK, -1).amax(dim=1))
        best = torch.cat(maxima, dim=1).topk(_BLOCKS_KEPT, dim=1).indices.unsqueeze(-1)
        apart = _CHUNK // _BLOCK
        members = best // apart * _CHUNK + best % apart + apart * torch.arange(_BLOCK)
        columns = members.clamp(max=len(self._catalogue) - 1).flatten(1)
        return columns, torch.logsumexp(torch.cat(totals, dim=1), dim=1, keepdim=True)


def _products(queries: Tensor, items: Tensor) -> Tensor:
    """Products of queries [B, d] with items [B, N, d] of their own: [B, N], float32."""
    return (items @ queries.unsqueeze(-1)).squeeze(-1).float()
