"""How a process that ingests deals with memory between batches."""

import gc
from typing import Final

import numpy as np

#: Bytes. Just below the most that the C library learns from (32 MiB).
_LARGEST: Final = 31 * 1024 * 1024
#: New containers between two rounds of the cyclic garbage collector (Python's default is 700). Decoding makes and drops a hundred
#: thousand a batch, none of them in a cycle; looking through them all took a third of the hot path.
_COLLECT_EVERY: Final = 1_000_000


def keep_freed_memory() -> None:
    """Have the C library keep what a batch frees for the next one, in this process.

    By default it gives large blocks back to the kernel at once, which hands them out again as fresh, empty pages: 4,000 of them a
    batch of 50,000 readings, a sixth of the hot path. The GNU C library raises both of its limits when a larger block is freed
    (mallopt(3), "dynamic mmap threshold"); 62 MiB may then lie unused. Other C libraries do not mind.
    """
    np.empty(_LARGEST, np.uint8)  # never touched, so it costs an address range for a moment


def spare_the_collector() -> None:
    """Have the cyclic garbage collector look less often, in this process."""
    gc.set_threshold(_COLLECT_EVERY, 10, 10)
