"""Networks, their checkpoint, and the scorer that ranks items with them. Imports torch."""

from nextclick.shared.model.bst import BST
from nextclick.shared.model.bst_network import BSTConfig
from nextclick.shared.model.calibration import Calibration
from nextclick.shared.model.checkpoint import Checkpoint, Vocabulary
from nextclick.shared.model.constraints import Constraints, KeptOut
from nextclick.shared.model.device import select_device
from nextclick.shared.model.explain import Explanation
from nextclick.shared.model.exploration import seed_of
from nextclick.shared.model.neighbours import ItemNeighbours
from nextclick.shared.model.scorer import Ranking, Scorer, are_finite
from nextclick.shared.model.session_model import SessionModel
from nextclick.shared.model.source_bst import SourceBST, SourceBSTConfig

__all__ = [
    "BST",
    "BSTConfig",
    "Calibration",
    "Checkpoint",
    "Constraints",
    "Explanation",
    "ItemNeighbours",
    "KeptOut",
    "Ranking",
    "Scorer",
    "SessionModel",
    "SourceBST",
    "SourceBSTConfig",
    "Vocabulary",
    "are_finite",
    "seed_of",
    "select_device",
]
