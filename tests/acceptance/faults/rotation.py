"""Cases of a test run: a few that change with the commit, so that a day's commits play all of them; or all.

CITYBEAT_FAULTS=all: all. CITYBEAT_FAULTS=words: those that have them in their name.
"""

import os
import random
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.acceptance.faults.harness import Case

#: s of cases in one run, as long as they take on two cores that are free. Two test workers play two at a time, so that
#: this is a minute and a half; on a machine that is shared it was two and a half.
BUDGET = 160.0


def chosen(cases: Sequence[Case], *, which: str | None = None, commit: str | None = None) -> list[Case]:
    """The cases of this run, in the order in which they stand.

    Parameters
    ----------
    cases : sequence of Case
    which : str, optional
        As CITYBEAT_FAULTS, which it is unless given.
    commit : str, optional
        What the choice depends on; unless given, the commit that is checked out.
    """
    which = os.environ.get("CITYBEAT_FAULTS", "") if which is None else which
    if which:
        return [case for case in cases if which == "all" or which in case.name]
    drawn = list(cases)
    random.Random(commit or _commit()).shuffle(drawn)
    left = BUDGET
    taken = []
    for case in drawn:
        left -= case.seconds
        if left < 0:
            break
        taken.append(case.name)
    return [case for case in cases if case.name in taken]


def _commit() -> str:
    """The commit's hash; without git, the day: it has to be the same in every test worker."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return datetime.now(UTC).date().isoformat()
    return done.stdout.strip()
