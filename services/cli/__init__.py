"""The commands of the services, the demo and the tools.

A command imports its dependencies when it runs, because importing torch takes seconds.
"""

from nextclick.services.cli import experiments, forgetting, items, running, tools, upkeep
from nextclick.services.cli.common import app, errors_as_one_line
from nextclick.services.dlq.cli import app as dlq_app

__all__ = [
    "app",
    "errors_as_one_line",
    "experiments",
    "forgetting",
    "items",
    "running",
    "tools",
    "upkeep",
]

app.add_typer(dlq_app, name="dlq")
