"""The encoder of a BST for serving: the same results as `bst.BST.encode`, with fewer operators.

For a single click, launching an operator costs more than its arithmetic. So everything that depends
on the weights alone is computed once, when a model is loaded:

- The scale and shift of a norm, and the 1/√d of attention, are folded into the product that
  follows. Query, key and value of a layer are one product.
- The last layer computes an output for the newest click only. It needs its keys K only in q·(K n)
  = (Kᵀq)·n, where n are the normed hidden states: one product per window instead of one per click.
  The same holds for its values, and for the keys of the *about* reading. The bias of the keys adds
  the same number to every score, which softmax ignores, so it is left out.
- The bias per distance is expanded to a matrix for each window length.
- Hidden states are kept divided by √d, so that unit item vectors enter unscaled. A layer norm is
  invariant to this once its epsilon is divided by d.

Training uses `bst_network`; `tests/unit/shared/model/test_bst_encoder.py` checks that both agree.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nextclick.shared.model.bst_network import EncoderLayer, Network, Sessions
from nextclick.shared.windows import HISTORY_LENGTH, PADDING

_MASKED = -1e9
"""Added to the attention score of a masked click. Finite, because padding attends to nothing but
padding, and a softmax over −inf alone is NaN."""


class BSTEncoder:
    """Encodes windows, without dropout and without gradients."""

    def __init__(self, network: Network, about_share: float, catalogue: Tensor) -> None:
        """Fold the weights. catalogue: unit item vectors [items, d], on the serving device."""
        *earlier, last = cast(list[EncoderLayer], list(network.layers))
        device = catalogue.device
        self._catalogue = catalogue
        self._layers = [_Layer(layer, device) for layer in earlier]
        self._newest = _NewestLayer(last, device)
        self._readout = _Readout(network, about_share, device)

    def __call__(self, histories: Tensor) -> Sessions:
        """Encode windows [B, L] of rows, left-padded to the longest of them, L ≤ HISTORY_LENGTH.

        Returns queries [B, d]; bonus columns and bonuses are [B, L], oldest click first.
        """
        columns = (histories - 1).clamp_(min=0)
        hidden = items = functional.embedding(columns, self._catalogue)
        # A single window is as long as its history: no padding, no mask.
        padding = histories == PADDING if len(histories) > 1 else None
        mask = None if padding is None else (padding * _MASKED).unsqueeze(1)
        for layer in self._layers:
            hidden = layer(hidden, mask)
        normed = _normed(hidden)
        ahead = self._newest(hidden[:, -1], normed, mask)
        queries, bonus = self._readout(ahead, normed, items, mask)
        if padding is not None:
            bonus = bonus.masked_fill(padding, 0.0)
        return Sessions(queries, columns, bonus)


def _normed(hidden: Tensor) -> Tensor:
    """Layer norm without scale and shift, for hidden states [..., d] that were divided by √d."""
    d = hidden.shape[-1]
    return functional.layer_norm(hidden, (d,), eps=_EPSILON / d)


_EPSILON = nn.LayerNorm(1).eps


class _Weights:
    """A linear layer x ↦ x W + b, in float64 on the CPU; what folding works on."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """weight: [in, out]; bias: [out]."""
        self.weight, self.bias = weight, bias

    @classmethod
    def of(cls, linear: nn.Linear) -> _Weights:
        return cls(_float64(linear.weight).T, _float64(linear.bias))

    def fold_norm(self, norm: nn.LayerNorm) -> _Weights:
        """Include the scale and shift of `norm`: the input is then the plain normed vector."""
        bias = self.bias + _float64(norm.bias) @ self.weight
        return _Weights(_float64(norm.weight)[:, None] * self.weight, bias)

    def scaled(self, factor: float) -> _Weights:
        """Multiply the output by a factor."""
        return _Weights(self.weight * factor, self.bias * factor)

    def concat(self, *others: _Weights) -> _Weights:
        """Concatenate the outputs of several layers with the same input."""
        every = (self, *others)
        return _Weights(torch.cat([w.weight for w in every], 1), torch.cat([w.bias for w in every]))


def _float64(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()  # not every device has float64


class _Product:
    """Folded weights in float32 on the serving device: [N, in] to [N, out]."""

    def __init__(self, weights: _Weights, device: torch.device) -> None:
        self._weight = weights.weight.float().contiguous().to(device)
        self._bias = weights.bias.float().to(device)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmm(self._bias, x, self._weight)


def _by_length(bias: Tensor, device: torch.device) -> list[Tensor]:
    """Expand a bias per distance [..., HISTORY_LENGTH] to [..., L, L] for each length L."""
    laid_out = []
    for length in range(HISTORY_LENGTH + 1):
        place = torch.arange(length)
        distance = place[:, None] - place  # key to query
        bias_of_pair = bias.detach().cpu()[..., distance.clamp(min=0)]
        laid_out.append(bias_of_pair.masked_fill(distance < 0, _MASKED).to(device))
    return laid_out


class _FeedForward:
    """The feed-forward half of a layer, with its residual: [N, d] to [N, d]."""

    def __init__(self, layer: EncoderLayer, device: torch.device) -> None:
        scale = 1 / math.sqrt(layer.feedforward_in.in_features)
        inner = _Weights.of(layer.feedforward_in).fold_norm(layer.feedforward_norm)
        self._inner = _Product(inner, device)
        self._out = _Product(_Weights.of(layer.feedforward_out).scaled(scale), device)

    def __call__(self, hidden: Tensor) -> Tensor:
        return self._out(functional.gelu(self._inner(_normed(hidden)))).add_(hidden)


class _Layer:
    """A layer that computes an output for every click."""

    def __init__(self, layer: EncoderLayer, device: torch.device) -> None:
        d = layer.query.in_features
        self._heads = layer.heads
        query = _Weights.of(layer.query).scaled(math.sqrt(layer.heads / d))
        joint = query.concat(_Weights.of(layer.key), _Weights.of(layer.value))
        self._query_key_value = _Product(joint.fold_norm(layer.attention_norm), device)
        self._out = _Product(_Weights.of(layer.attention_out).scaled(1 / math.sqrt(d)), device)
        self._bias = [bias.unsqueeze(0) for bias in _by_length(layer.distance_bias, device)]
        self._feed_forward = _FeedForward(layer, device)

    def __call__(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """hidden: [B, L, d]; mask: [B, 1, L], added to the scores. Returns [B, L, d]."""
        batch, length, d = hidden.shape
        flat = hidden.view(-1, d)
        joint = self._query_key_value(_normed(flat)).view(batch, length, 3, self._heads, -1)
        query, key, value = joint.permute(2, 0, 3, 1, 4)
        bias = self._bias[length]
        if mask is not None:
            bias = bias + mask.unsqueeze(1)
        mixed = functional.scaled_dot_product_attention(query, key, value, bias, scale=1.0)
        attended = self._out(mixed.transpose(1, 2).reshape(-1, d)).add_(flat)
        return self._feed_forward(attended).view(batch, length, d)


class _NewestLayer:
    """A layer that computes an output for the newest click only."""

    def __init__(self, layer: EncoderLayer, device: torch.device) -> None:
        d, heads = layer.query.in_features, layer.heads
        self._heads = heads
        norm = layer.attention_norm
        query = _Weights.of(layer.query).fold_norm(norm).scaled(math.sqrt(heads / d))
        key, value = (
            _Weights.of(layer.key).fold_norm(norm),
            _Weights.of(layer.value).fold_norm(norm),
        )
        out = _Weights.of(layer.attention_out)

        def per_head(tensor: Tensor) -> Tensor:
            return tensor.view(*tensor.shape[:-1], heads, -1)

        keys = per_head(key.weight)
        query_key = torch.einsum("ihk,jhk->ihj", per_head(query.weight), keys).reshape(d, -1)
        query_key_bias = torch.einsum("hk,jhk->hj", per_head(query.bias), keys).reshape(-1)
        self._query = _Product(_Weights(query_key, query_key_bias), device)
        per_head_out = out.weight.view(heads, -1, d)
        value_out = torch.einsum("ihk,hkj->hij", per_head(value.weight), per_head_out)
        value_out_bias = value.bias @ out.weight + out.bias  # attention weights add up to 1
        folded = _Weights(value_out.reshape(-1, d), value_out_bias).scaled(1 / math.sqrt(d))
        self._out = _Product(folded, device)
        self._bias = [
            bias[:, -1:].transpose(0, 1) for bias in _by_length(layer.distance_bias, device)
        ]
        self._feed_forward = _FeedForward(layer, device)

    def __call__(self, newest: Tensor, normed: Tensor, mask: Tensor | None) -> Tensor:
        """newest: [B, d], hidden states of the newest clicks; normed: [B, L, d], of all clicks.

        mask: [B, 1, L], added to the scores. Returns [B, d].
        """
        batch, length, d = normed.shape
        bias = self._bias[length]
        if mask is not None:
            bias = bias + mask
        query = self._query(normed[:, -1]).view(batch, self._heads, d)
        scores = torch.baddbmm(bias, query, normed.transpose(1, 2))
        mixed = torch.bmm(torch.softmax(scores, dim=-1), normed)
        return self._feed_forward(self._out(mixed.view(batch, -1)).add_(newest))


class _Readout:
    """Queries and repeat bonuses from the newest hidden states, the two readings mixed."""

    def __init__(self, network: Network, about_share: float, device: torch.device) -> None:
        self._d = d = network.about_query.in_features
        keys = _Weights.of(network.about_key).fold_norm(network.norm).weight / math.sqrt(d)
        query = _Weights.of(network.about_query)
        ahead, about = _Weights.of(network.ahead.repeat), _Weights.of(network.about.repeat)
        oldest_first = _Weights(
            torch.lerp(ahead.weight, about.weight, about_share).flip(1),
            torch.lerp(ahead.bias, about.bias, about_share).flip(0),
        )
        folded = _Weights(query.weight @ keys.T, query.bias @ keys.T).concat(oldest_first)
        self._product = _Product(folded.fold_norm(network.norm), device)
        self._norm_weight = _float64(network.norm.weight).float().to(device)
        self._norm_bias = _float64(network.norm.bias).float().to(device)
        self._bias = [bias[None, -1:] for bias in _by_length(network.about_bias, device)]
        scales = [
            (1 - about_share) * network.ahead.log_scale.exp().item(),
            about_share * network.about.log_scale.exp().item(),
        ]
        self._scales = torch.tensor(scales, device=device)[:, None, None]

    def __call__(
        self, newest: Tensor, normed: Tensor, items: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """newest: [B, d]; normed, items: [B, L, d]; mask: [B, 1, L], added to the scores.

        Returns queries [B, d] and one bonus per click [B, L].
        """
        length = normed.shape[1]
        bias = self._bias[length]
        if mask is not None:
            bias = bias + mask
        newest = _normed(newest)
        projected = self._product(newest)
        scores = torch.baddbmm(bias, projected[:, None, : self._d], normed.transpose(1, 2))
        about = torch.bmm(torch.softmax(scores, dim=-1), items).squeeze(1)
        ahead = torch.addcmul(self._norm_bias, newest, self._norm_weight)
        directions = functional.normalize(torch.stack([ahead, about]), dim=-1)
        return (directions * self._scales).sum(dim=0), projected[:, projected.shape[1] - length :]
