"""Versions and hardware of a comparison, to make its results interpretable."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("nextclick", "torch", "numpy", "pandas", "scipy")


def environment(device: torch.device) -> dict[str, str]:
    """Versions of Python and packages, system, processor, threads and device."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["system"] = platform.platform(terse=True)
    found["processor"] = f"{_processor()}, {os.cpu_count()} cores"
    found["threads"] = str(torch.get_num_threads())
    found["device"] = str(device)
    return found


def _processor() -> str:
    """The name of the processor, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
