"""Settings of memory management for a process that ingests."""

import gc
from typing import Final

import numpy as np

#: Bytes. Just below the largest block that raises the C library's limits (32 MiB).
_LARGEST: Final = 31 * 1024 * 1024
#: New containers between two rounds of the cyclic garbage collector (Python's default is 700). Decoding makes and drops a hundred
#: thousand a batch, none of them in a cycle; looking through them all took a third of the hot path.
_COLLECT_EVERY: Final = 1_000_000


def keep_freed_memory() -> None:
    """Have the C library keep memory that a batch frees for the next one, in this process.

    By default it returns large blocks to the kernel at once, which hands them out again as fresh, zeroed pages: 4,000 of them for a
    batch of 50,000 readings, a sixth of the hot path. The GNU C library raises both of its limits when a larger block is freed
    (mallopt(3), "dynamic mmap threshold"); 62 MiB may then lie unused. Other C libraries are not affected.
    """
    np.empty(_LARGEST, np.uint8)  # never written, so it costs a range of addresses for a moment


def spare_the_collector() -> None:
    """Run the cyclic garbage collector less often, in this process."""
    gc.set_threshold(_COLLECT_EVERY, 10, 10)
