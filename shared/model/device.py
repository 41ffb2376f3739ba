"""Selects the torch device that a model runs on."""

from __future__ import annotations

import torch

from nextclick.shared.errors import ConfigurationError


def select_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" takes MPS, then CUDA, then the CPU.

    Raises ConfigurationError if a named device does not exist on this machine.
    """
    if name == "auto":
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"NEXTCLICK_DEVICE = {name!r} is not usable here ({reason}); "
            "use auto, cpu, or a device that this machine has"
        ) from None
    return device
