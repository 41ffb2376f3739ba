"""How much each part of a fitted BST has to say: chosen on the validation clicks.

By 1/log₂(1 + rank), which also chooses the epoch (`loop`): the likelihood would ask for calibrated
probabilities, which label smoothing does not give, and hear the neighbours too little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nextclick.shared.model import BST
from nextclick.trainer.data import Samples
from nextclick.trainer.evaluate import discounted_gain, ranks_of

SHARE_WITHOUT_VALIDATION = 0.5
WEIGHT_WITHOUT_VALIDATION = 0.1
SHARES = np.linspace(0.0, 1.0, 11)
WEIGHTS = np.array([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.99])
"""However right the neighbours were on the validation: other items must stay possible."""
_CASES = 20_000
"""With 5,000, chance decided between a weight of 0.1 and one of 0.3."""
_BATCH = 256


def mix(model: BST, validation: Samples, device: torch.device) -> None:
    """Set what is about and what ahead first, then how much the neighbours add to that."""
    choose_about_share(model, validation, device)
    choose_neighbours_share(model, validation, device)


def choose_about_share(model: BST, validation: Samples, device: torch.device) -> None:
    """Set the one of SHARES under which the network ranks the validation best."""

    def mixed(histories: Tensor, catalogue: Tensor) -> Iterator[Tensor]:
        ahead, about = model.readings(histories)
        by_ahead, by_about = model.score(ahead, catalogue), model.score(about, catalogue)
        for share in SHARES:
            yield torch.lerp(by_ahead, by_about, float(share))

    best = _best(SHARES, mixed, model, validation, device)
    model.about_share.fill_(SHARE_WITHOUT_VALIDATION if best is None else best)


def choose_neighbours_share(model: BST, validation: Samples, device: torch.device) -> None:
    """Set the one of WEIGHTS under which network and neighbours rank the validation best."""

    def mixed(histories: Tensor, catalogue: Tensor) -> Iterator[Tensor]:
        logits = model.logits(histories, catalogue)
        for weight in WEIGHTS:
            model.neighbours.weight.fill_(weight)
            yield model.log_probabilities(logits, histories)

    best = _best(WEIGHTS, mixed, model, validation, device)
    model.neighbours.weight.fill_(WEIGHT_WITHOUT_VALIDATION if best is None else best)


def _best(
    options: npt.NDArray[np.float64],
    scores_under: Callable[[Tensor, Tensor], Iterator[Tensor]],
    model: BST,
    validation: Samples,
    device: torch.device,
) -> float | None:
    """The option that ranks some of the validation best; None without validation.

    scores_under: (histories, catalogue) → the scores [B, items] under one option after the other.
    """
    if len(validation) == 0:
        return None
    some = np.unique(np.linspace(0, len(validation) - 1, _CASES).astype(np.int64))
    gains = np.zeros(len(options))
    with torch.inference_mode():
        catalogue = model.catalogue()
        for start in range(0, len(some), _BATCH):
            batch = validation.take(some[start : start + _BATCH])
            histories = torch.from_numpy(batch.histories).to(device)
            for number, scores in enumerate(scores_under(histories, catalogue)):
                ranks = ranks_of(scores.cpu().numpy(), batch.targets)
                gains[number] += discounted_gain(ranks).sum()
    return float(options[gains.argmax()])
