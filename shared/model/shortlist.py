"""Top-k of a very large catalogue: an approximate scan of all items, exact scores for the best.

With a million items, most of the time goes into scores that nobody needs. So the scan multiplies in
bfloat16 if the processor supports it, and keeps only the maximum of every block of _BLOCK columns.
The items of the best blocks are then scored exactly. Without rounding, the best k items are in the
k blocks with the largest maxima; keeping _BLOCKS_KEPT ≥ k of them allows for rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from nextclick.shared.model.bst import BST
from nextclick.shared.model.bst_network import Sessions
from nextclick.shared.model.session_model import Encoded, Encoder

_BLOCK = 16
_BLOCKS_KEPT = 64
MAX_ITEMS = _BLOCKS_KEPT
"""The largest k."""
_CHUNK = 16_384
"""Columns scanned at once, a multiple of _BLOCK: for 64 windows their scores fill 4 MB."""
_STRIDE = _CHUNK // _BLOCK
"""Distance between the columns of a block. Blocks of adjacent columns would take ten times as
long to reduce."""
_LOWEST = -1e9
_LOG2_E = math.log2(math.e)


class Shortlist:
    """Ranks the catalogue of one BST on a CPU."""

    def __init__(self, model: BST, encoder: Encoder, catalogue: Tensor) -> None:
        """catalogue: the result of `model.catalogue()`, shape [items, embed_dim], on the CPU."""
        self._encode = encoder
        self._neighbours = model.neighbours
        self._catalogue = catalogue
        capabilities = torch.cpu.get_capabilities()
        has_bfloat16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        self.rough = catalogue.bfloat16() if has_bfloat16 else catalogue

    def top(
        self,
        histories: Tensor,
        k: int,
        withheld: Tensor | None = None,
        encoded: Encoded | None = None,
    ) -> tuple[Tensor, Tensor]:
        """log P and columns, both [B, k], of the best k ≤ MAX_ITEMS items for windows [B, L].

        withheld: bool [items], True for items that are not ranked; −inf stands for them. encoded:
        the windows as the encoder encodes them, if they are encoded already.

        The items of the session and their neighbours are always scored exactly too. The total
        probability of all other items comes from the scan: they are many and each is small, so
        their rounding errors average out.
        """
        sessions = Sessions(*(self._encode(histories) if encoded is None else encoded))
        maxima, sums = self._scan(sessions.queries, withheld)
        kept = maxima.topk(_BLOCKS_KEPT, dim=1).indices
        others = sums.scatter(1, kept, -torch.inf).logsumexp(dim=1, keepdim=True)
        voted, votes = self._neighbours.sparse_votes(histories)
        columns = torch.cat([self._members(kept), sessions.bonus_columns, voted], dim=1)
        columns = columns.sort(dim=1).values
        duplicate = functional.pad(columns[:, 1:] == columns[:, :-1], (1, 0), value=False)

        def sum_by_column(at: Tensor, values: Tensor) -> Tensor:
            """Sum values [B, N] by column; the sum is at the first occurrence of a column."""
            return torch.zeros_like(logits).scatter_add_(1, torch.searchsorted(columns, at), values)

        logits = _products(sessions.queries, self._catalogue[columns])
        logits += sum_by_column(sessions.bonus_columns, sessions.bonus)
        # Exactly scored columns outside of the kept blocks are in `others`, too: subtract them.
        inside = torch.zeros_like(sums, dtype=torch.bool).scatter_(1, kept, value=True)
        counted = duplicate | inside.gather(1, columns // _CHUNK * _STRIDE + columns % _STRIDE)
        approximate = _products(sessions.queries.to(self.rough.dtype), self.rough[columns])
        max_logit = logits.amax(dim=1, keepdim=True)
        double_counted = (approximate - max_logit).exp().masked_fill_(counted, 0.0)
        exact = (logits - max_logit).exp().masked_fill_(duplicate, 0.0).sum(dim=1, keepdim=True)
        rest = (others - max_logit).exp() - double_counted.sum(dim=1, keepdim=True)
        total = max_logit + (rest.clamp_(min=0.0) + exact).log()
        scores = self._neighbours.mix_columns(logits - total, sum_by_column(voted, votes))
        if withheld is not None:
            duplicate |= withheld[columns]
        best = scores.masked_fill_(duplicate, -torch.inf).topk(k, dim=1)
        return best.values, columns.gather(1, best.indices)

    def _scan(self, queries: Tensor, withheld: Tensor | None) -> tuple[Tensor, Tensor]:
        """The largest score of every block and the logsumexp of its scores, both [B, blocks].

        The largest is that of an item that is not withheld, the logsumexp is over all.
        """
        rough = queries.to(self.rough.dtype)
        maxima, sums = [], []
        for number, chunk in enumerate(torch.split(self.rough, _CHUNK)):
            scores = (rough @ chunk.T).float()
            if len(chunk) < _CHUNK:
                scores = functional.pad(scores, (0, _CHUNK - len(chunk)), value=_LOWEST)
            scores = scores.view(len(scores), _BLOCK, _STRIDE)
            highest = scores.amax(dim=1)
            chunk_max = highest.amax(dim=1, keepdim=True)
            # exp2 takes a third of the time that exp does.
            if withheld is not None:
                here = withheld[number * _CHUNK : number * _CHUNK + len(chunk)]
                if here.any():
                    here = functional.pad(here, (0, _CHUNK - len(chunk)), value=False)
                    allowed = scores.masked_fill(here.view(_BLOCK, _STRIDE), _LOWEST)
                    highest = allowed.amax(dim=1)
            powers = scores.sub_(chunk_max.unsqueeze(1)).mul_(_LOG2_E).exp2_()
            maxima.append(highest)
            sums.append(powers.sum(dim=1).log_().add_(chunk_max))
        return torch.cat(maxima, dim=1), torch.cat(sums, dim=1)

    def _members(self, blocks: Tensor) -> Tensor:
        """Columns of blocks [B, N]: [B, N · _BLOCK]; the last column for those past the end."""
        first = blocks // _STRIDE * _CHUNK + blocks % _STRIDE
        members = first.unsqueeze(-1) + _STRIDE * torch.arange(_BLOCK)
        return members.clamp(max=len(self._catalogue) - 1).flatten(1)


def _products(queries: Tensor, items: Tensor) -> Tensor:
    """Dot products of each query [B, d] with its own items [B, N, d]: [B, N], float32."""
    return (items @ queries.unsqueeze(-1)).squeeze(-1).float()
