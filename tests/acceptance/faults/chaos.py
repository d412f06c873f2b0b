"""Random sequences of the cases' faults against one long-living tree: `make chaos ARGS="--minutes 10 --seed N"`.

Rounds of traffic with some faults in each; after each the books are compared. The first difference ends it, with the seed, the
round and its faults. The same seed draws the same faults and the same messages; moments depend on the machine.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.acceptance.faults import harness
from tests.acceptance.faults.cases import CASES
from tests.acceptance.faults.harness import Case
from tests.acceptance.faults.traffic import Mix
from tests.conftest import root_directory

#: Faults a round: enough to meet each other's consequences, few enough that a failure can be understood.
_MOST = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description="Break things at random, and compare the books.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="default: drawn, and printed")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="citybeat-chaos-") as place:
        home, logs = Path(place, "home"), Path(place, "logs")
        logs.mkdir()
        with harness.grown(home, root_directory(), logs) as tree:
            return play(tree, seed, arguments.minutes * 60, Path(place))


def play(tree: harness.Tree, seed: int, seconds: float, home: Path) -> int:
    """Rounds until the time is over; the exit status."""
    # A spool that is soon full would stop the others short of what they wait for.
    faults = [case for case in CASES if not case.spool_disk and "CITYBEAT_SPOOL_BYTES" not in case.env]
    env = {name: value for case in faults for name, value in case.env.items()}
    whole = Case(name="chaos", inject=lambda _: None, clock=True, env=env, options=("--workers", "2"))
    draw = random.Random(seed)
    began = time.monotonic()
    messages = lost = rounds = 0
    said: list[str] = []
    with harness.opened(tree, whole, seed, home) as scene:
        scene.ingest.start()
        try:
            while time.monotonic() - began < seconds:
                rounds += 1
                said = [draw.choice(faults).name for _ in range(draw.randint(1, _MOST))]
                scene.policy = draw.choice([case.policy for case in faults])
                scene.mix = draw.choice([Mix(), Mix(), Mix(poison=0.2), Mix(conflicts=0.3), Mix(late=0.4)])
                print(f"{time.monotonic() - began:6.0f} s  round {rounds}: {', '.join(said)}", end=" ", flush=True)
                _round(scene, [case for name in said for case in faults if case.name == name])
                messages += len(scene.sent)
                lost += len(scene.lost)
                print(f"- {len(scene.sent)} messages, {len(scene.lost)} lost with the broker's memory", flush=True)
            scene.stop()
        except Exception as exc:
            print(f"\nseed {seed}, round {rounds}, {', '.join(said)}:\n{exc}", file=sys.stderr)
            return 1
    print(f"seed {seed}: {rounds} rounds, {messages} messages, {lost} lost with the broker's memory, no difference")
    return 0


def _round(scene: harness.Scene, cases: list[Case]) -> None:
    scene.flow()
    scene.committed()
    for case in cases:
        scene.moment()
        case.inject(scene)
        scene.mend()
    scene.settle()
    scene.audit()


if __name__ == "__main__":
    sys.exit(main())
