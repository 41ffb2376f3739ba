"""`python -m services.cli` is `nextclick`."""

from services.cli import main

main()
