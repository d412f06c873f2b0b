"""A day on which everything goes wrong (tests/scenarios/bad_day.yaml), and what `citybeat simulate score` says of it: every bar."""

import json
from pathlib import Path

import pytest

from citybeat.simulator.faults.kinds import Fault
from citybeat.simulator.score.verdict import BARS, UNITS

SCENARIO = Path(__file__).parent.parent / "scenarios" / "bad_day.yaml"
#: Half of the day is later than this: simulated time trails the clock by a day at first, and not at all in the end.
LATE = {"CITYBEAT_LATE_AFTER_S": "43200"}
#: Twice as fast as the scenario has it.
SHORTENED = ("--speed", "2880", "--duration", "30")


@pytest.fixture
def bad_day(fresh_town, tmp_path):
    """A town after the day, and the truth of it."""
    ingest = fresh_town.start("ingest", "--stats", **LATE)
    ingest.wait_ready()
    truth = tmp_path / "truth.parquet"
    fresh_town.run("simulate", "run", "--scenario", str(SCENARIO), *SHORTENED, "--truth", str(truth), "--json")
    yield fresh_town, truth
    assert ingest.stop() == 0, ingest.log.read_text("utf-8")


def test_every_bar_is_met_and_the_books_agree(bad_day):
    town, truth = bad_day
    done = town.run("simulate", "score", "--truth", str(truth), "--json", check=False, **LATE)
    score = json.loads(done.stdout)
    assert (done.returncode, score["missed"], score["disagreements"]) == (0, [], []), done.stderr
    assert score["ok"]
    # Every kind of fault was there, and enough of each that has a bar for the bar to mean something.
    kinds = {kind["kind"]: kind for kind in score["kinds"]}
    assert kinds.keys() == UNITS.keys()
    assert {name: kind["of"] for name, kind in kinds.items() if name in BARS and kind["of"] < 20} == {}
    assert {name: kind["left_out"] for name, kind in kinds.items() if kind["left_out"] > 0.3 * kind["of"]} == {}
    assert score["clean"] > 100_000
    assert kinds[Fault.STUCK]["delay_seconds"]["max"] > 3600
    flags = {flag["flag"]: flag for flag in score["flags"]}
    assert {name for name, flag in flags.items() if not flag["right"]} == set()

    # The same truth, after something was changed behind ingest's back.
    with town.database() as database:
        database.execute("UPDATE readings SET flags = flags & ~4::int2 WHERE flags & 4 <> 0")
        database.execute("DELETE FROM readings WHERE time = (SELECT max(time) FROM readings WHERE flags = 0)")
    done = town.run("simulate", "score", "--truth", str(truth), "--wait", "0", check=False, **LATE)
    assert done.returncode == 1
    assert "MISSED: stuck: 0 of " in done.stdout
    assert "should be stored, and is not" in done.stdout
