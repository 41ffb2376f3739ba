from __future__ import annotations

import pytest
import torch

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.model import select_device


@pytest.mark.parametrize(
    ("mps", "cuda", "expected"),
    [(True, True, "mps"), (True, False, "mps"), (False, True, "cuda"), (False, False, "cpu")],
)
def test_auto_takes_mps_then_cuda_then_the_cpu(
    monkeypatch: pytest.MonkeyPatch, mps: bool, cuda: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert select_device("auto") == torch.device(expected)


def test_a_named_device_is_taken() -> None:
    assert select_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["quantum", "", "cuda:99", "CPU"])
def test_a_device_that_is_not_there_names_the_setting(name: str) -> None:
    with pytest.raises(ConfigurationError, match="NEXTCLICK_DEVICE"):
        select_device(name)
