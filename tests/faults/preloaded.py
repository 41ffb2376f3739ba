"""What every process of the fault suite needs: imported once, by the process that forks them."""

import nextclick.trainer.main  # noqa: F401
from tests.faults import collecting, dying  # noqa: F401
