"""`make bench-quick`: the most important ratios, in a minute and a half; exit status 1 if one is below its bar.

A bar is a ratio to a limit or a peer of the same run, never a time, and far enough below what is measured to hold on a machine
where others work as well: each was chosen from runs on an idle and on a busy machine (bench/README.md). So it tells of something
that became much slower, or of books that do not balance, and of nothing else.
"""

import sys
import time
from pathlib import Path
from typing import Any, Final

from bench import end_to_end, hotpath, peers, scene, startup, store, table
from bench.workload import CATCH_UP, LIVE, SINGLES

OUT: Final = Path(".citybeat") / "bench-quick.json"
#: By what a row's name begins with, and its limit: the least that a ratio may be.
BARS: Final = (("hot path, messages of 100 reports", "", 0.30),)
#: Bytes: the most that a process of ingest may have had.
MEMORY: Final = 300_000_000


def measure() -> list[dict[str, Any]]:
    """Short runs of what `make bench` runs."""
    rows = hotpath.measure(rounds=5)
    with scene.servers() as running:
        rows += store.measure(running, rounds=5, shapes=(LIVE, CATCH_UP))
        whole = end_to_end.measure(running, shapes=(LIVE, CATCH_UP, SINGLES), seconds=4.0, rounds=3, ramp=2.0)
        rows += whole + peers.measure(running, shapes=(LIVE,), seconds=2.0, ours={"live": whole[0]["ours_per_s"]})
        rows += startup.measure(running, rounds=3)
    return rows


def main() -> int:
    began = time.monotonic()
    rows = measure()
    table.show(rows)
    print(f"took {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
