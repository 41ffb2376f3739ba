"""What serves says what was trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nextclick.shared.model import BST, SessionModel
from nextclick.shared.model.checkpoint import build
from nextclick.shared.windows import HISTORY_LENGTH
from nextclick.trainer.fit.presets import PRESETS

ITEMS = 300


def with_a_say(model: SessionModel) -> SessionModel:
    """Fresh weights leave out whatever begins at zero or one: move those, as training does."""
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() < 2 or name.endswith(("repeat.weight", "distance_bias")):
                weights.add_(0.2 * torch.randn_like(weights))
        if isinstance(model, BST):
            model.about_share.fill_(0.3)
            model.neighbours.rows[1:].random_(0, ITEMS + 1)
            model.neighbours.shares[1:].uniform_(0, 0.02)
            model.neighbours.weight.fill_(0.2)
    return model.eval()


def model_of(preset: str, layers: int) -> SessionModel:
    torch.manual_seed(layers)
    config = PRESETS[preset].config(ITEMS, clicks=0).model_copy(update={"layers": layers})
    return with_a_say(build(config))


MODELS = {(name, layers): model_of(name, layers) for name in PRESETS for layers in (1, 2, 3)}
lengths = st.lists(st.integers(1, HISTORY_LENGTH), min_size=1, max_size=40)


def windows_of(lengths: list[int], seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, ITEMS + 1, (len(lengths), HISTORY_LENGTH))
    for row, length in zip(rows, lengths, strict=True):
        row[: HISTORY_LENGTH - length] = 0
    return torch.from_numpy(rows)


@pytest.mark.parametrize(("preset", "layers"), MODELS)
@settings(max_examples=30)
@given(lengths=lengths, seed=st.integers(0, 1000))
def test_serving_gives_the_probabilities_of_training(
    preset: str, layers: int, lengths: list[int], seed: int
) -> None:
    """For windows of every length, alone and beside others."""
    model = MODELS[preset, layers]
    whole = windows_of(lengths, seed)
    served = whole[:, HISTORY_LENGTH - max(lengths) :]
    with torch.inference_mode():
        catalogue = model.catalogue()
        encoded = model.serving_encoder(catalogue)(served)
        got = model.log_probabilities(model.score(encoded, catalogue), served)
        expected = model(whole)
    assert torch.allclose(got, expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("length", range(1, HISTORY_LENGTH + 1))
@pytest.mark.parametrize("preset", PRESETS)
def test_a_window_alone_is_encoded_without_a_mask(preset: str, length: int) -> None:
    model = MODELS[preset, 2]
    window = windows_of([length], seed=length)
    with torch.inference_mode():
        catalogue = model.catalogue()
        encoder = model.serving_encoder(catalogue)
        alone = model.score(encoder(window[:, -length:]), catalogue)
        expected = model.logits(window, catalogue)
    assert torch.allclose(alone, expected, atol=1e-5, rtol=1e-6)


def test_weights_are_those_of_the_moment_the_encoder_was_made() -> None:
    model = model_of("default", 2)
    window = windows_of([4], seed=0)[:, -4:]
    with torch.inference_mode():
        encoder = model.serving_encoder(model.catalogue())
        before = encoder(window)[0].clone()
        model.get_parameter("network.norm.weight").fill_(3.0)
        assert torch.equal(encoder(window)[0], before)
