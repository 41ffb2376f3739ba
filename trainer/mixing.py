"""How much each part of a fitted BST has to say: chosen on the validation clicks.

By 1/log₂(1 + rank), which also chooses the epoch (`fit`): the likelihood would ask for calibrated
probabilities, which label smoothing does not give, and hear the neighbours too little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.bst import BST
from shared.windows import IntArray
from trainer.dataset import Samples
from trainer.evaluate import discounted_gain, ranks_of

SHARE_WITHOUT_VALIDATION = 0.5
WEIGHT_WITHOUT_VALIDATION = 0.1
SHARES = np.linspace(0.0, 1.0, 11)
WEIGHTS = np.array([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.99])
"""However right the neighbours were on the validation: other items must stay possible."""
_CASES = 20_000
_GROUPS = 4
_CASES_IN_GROUP = 2_500
"""With fewer cases, chance decides between a weight of 0.1 and one of 0.3."""
_BATCH = 256


def mix(model: BST, validation: Samples, clicks: IntArray, device: torch.device) -> None:
    """Set what is about and what ahead first, then how much the neighbours add to that.

    clicks: shape [items], how often each item was clicked.
    """
    choose_about_share(model, validation, device)
    weigh_neighbours(model, validation, clicks, device)


def choose_about_share(model: BST, validation: Samples, device: torch.device) -> None:
    """Set the one of SHARES under which the network ranks the validation best."""

    def mixed(histories: Tensor, catalogue: Tensor) -> Iterator[Tensor]:
        ahead, about = model.readings(histories)
        by_ahead, by_about = model.score(ahead, catalogue), model.score(about, catalogue)
        for share in SHARES:
            yield torch.lerp(by_ahead, by_about, float(share))

    (best,) = _best(SHARES, mixed, model, validation, device)
    model.about_share.fill_(SHARE_WITHOUT_VALIDATION if best is None else best)


def weigh_neighbours(
    model: BST, validation: Samples, clicks: IntArray, device: torch.device
) -> None:
    """Set the WEIGHTS under which network and neighbours rank the validation best.

    Where the newest click is on a rare item, a network knows little, and the neighbours get more of
    the say: items fall into _GROUPS by their clicks, as many validation cases in each, and each
    group has a weight of its own.
    """

    def mixed(histories: Tensor, catalogue: Tensor) -> Iterator[Tensor]:
        logits = model.logits(histories, catalogue)
        for weight in WEIGHTS:
            model.neighbours.weight.fill_(weight)
            yield model.log_probabilities(logits.clone(), histories)

    of_rows = np.r_[0, clicks]
    known = np.sort(of_rows[validation.histories[:, -1]])
    groups = int(np.clip(len(known) // _CASES_IN_GROUP, 1, _GROUPS))
    bounds = known[np.arange(1, groups) * len(known) // groups]
    group_of = np.asarray(np.searchsorted(bounds, of_rows, side="right"), np.int64)
    best = _best(WEIGHTS, mixed, model, validation, device, group_of)
    weights = [WEIGHT_WITHOUT_VALIDATION if each is None else each for each in best]
    model.neighbours.weight.copy_(torch.tensor(weights)[torch.from_numpy(group_of)])


def _best(
    options: npt.NDArray[np.float64],
    scores_under: Callable[[Tensor, Tensor], Iterator[Tensor]],
    model: BST,
    validation: Samples,
    device: torch.device,
    group_of: IntArray | None = None,
) -> list[float | None]:
    """For each group, the option that ranks some of the validation best; None without cases.

    scores_under: (histories, catalogue) → the scores [B, items] under one option after the other.
    group_of: shape [items + 1], a case's group by the row of its newest click; None: all are one.
    """
    if group_of is None:
        group_of = np.zeros(model.config.items + 1, np.int64)
    count = min(len(validation), _CASES)
    some = np.linspace(0, len(validation) - 1, count).astype(np.int64)
    gains = np.zeros((len(options), group_of.max() + 1))
    with torch.inference_mode():
        catalogue = model.catalogue()
        for start in range(0, len(some), _BATCH):
            batch = validation.take(some[start : start + _BATCH])
            group = group_of[batch.histories[:, -1]]
            histories = torch.from_numpy(batch.histories).to(device)
            for number, scores in enumerate(scores_under(histories, catalogue)):
                ranks = ranks_of(scores.cpu().numpy(), batch.targets)
                np.add.at(gains[number], group, discounted_gain(ranks))
    return [float(options[of_group.argmax()]) if of_group.any() else None for of_group in gains.T]
