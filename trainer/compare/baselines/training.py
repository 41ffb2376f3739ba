"""The training loop of the neural baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

LAST_EPOCH_RATE = 0.3
LAST_EPOCH_TIME = 0.15
"""Shares of learning rate and time of a last epoch, which includes the validation clicks.

These are the newest and most valuable clicks, but cannot be used earlier, because they are needed
for early stopping.
"""


def train(
    model: nn.Module,
    losses: Callable[[], Iterator[Tensor]],
    steps: int,
    validation_loss: Callable[[], float] | None,
    *,
    learning_rate: float,
    epochs: int,
    patience: int = 1,
    deadline: float = float("inf"),
) -> None:
    """Train in place; leave the weights of the epoch with the lowest validation loss.

    `losses` yields the loss of each batch of one epoch, which has `steps` batches. The learning
    rate falls linearly to a tenth over `epochs`. Ends after `patience` epochs without a lower
    validation loss, or at `deadline` (of time.monotonic()). Without `validation_loss`, the weights
    of the last epoch are kept.
    """
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, max(1, epochs * steps))
    best_loss, best_epoch, best_weights = float("inf"), 0, None
    for epoch in range(1, epochs + 1):
        model.train()
        for loss in losses():
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if time.monotonic() > deadline:
                break
        model.eval()
        if validation_loss is not None:
            with torch.inference_mode():
                loss_now = validation_loss()
            if loss_now < best_loss:
                best_loss, best_epoch = loss_now, epoch
                best_weights = {name: w.clone() for name, w in model.state_dict().items()}
            if epoch - best_epoch >= patience:
                break
        if time.monotonic() > deadline:
            break
    if best_weights is not None:
        model.load_state_dict(best_weights)
    model.eval()
