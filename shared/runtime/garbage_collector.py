"""The garbage collector, and what it need not look at."""

from __future__ import annotations

import gc


def freeze_garbage_collector() -> None:
    """Keep the garbage collector from walking through all of torch again and again.

    Where thousands of small objects are made a second it runs often, and looking at half a million
    imported ones takes 170 ms each time. What is loaded and dropped later, a model that is swapped
    out, is freed all the same: nothing in it refers back.
    """
    gc.collect()
    gc.freeze()
