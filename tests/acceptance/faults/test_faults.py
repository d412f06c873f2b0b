"""Whatever breaks, in mid-stream: nothing acknowledged is lost, nothing is stored twice, and the books balance."""

import os
import random

import pytest

from tests.acceptance.faults import harness, rotation
from tests.acceptance.faults.cases import CASES


@pytest.fixture(scope="session")
def tree(tmp_path_factory, debian_root):
    """Servers of this test worker's own, for all of its cases."""
    with harness.grown(tmp_path_factory.mktemp("tree"), debian_root, tmp_path_factory.mktemp("faults")) as grown:
        yield grown


@pytest.mark.parametrize("case", rotation.chosen(CASES), ids=lambda case: case.name)
def test_nothing_acknowledged_is_lost(tree, tmp_path, case):
    seed = int(os.environ.get("CITYBEAT_FAULTS_SEED") or random.SystemRandom().randrange(10**6))
    try:
        scene = harness.run(tree, case, seed, tmp_path)
    except harness.UnableError as exc:
        pytest.skip(str(exc))
    print(f"{case.name}: seed {seed}, {len(scene.sent)} messages, {len(scene.lost)} lost with the broker's memory")
