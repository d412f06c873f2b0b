"""Lists that have one home, against the texts that cannot import them."""

import re
from pathlib import Path

import pytest

from citybeat.dashboards.texts import TEXTS
from citybeat.devices.ledger import COUNTERS, NAMES, OUTCOMES, Counts, Sort
from citybeat.devices.states import STATES

ROOT = Path(__file__).parents[2]


def text(path):
    return (ROOT / path).read_text("utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "storage/queries").glob("*.sql")), ids=lambda path: path.name)
def test_statements_take_the_counters_from_the_list(path):
    for statement in path.read_text("utf-8").split("-- name: ")[1:]:
        named = [name for name in NAMES if re.search(rf"\b{name}\b", statement.split("\n", 2)[2])]
        assert len(named) <= 4, f"{path}: {statement.split()[0]} lists counters; storage/db/counters.py has them"


def test_states_are_those_of_the_list():
    judged = text("storage/queries/states.sql").split("-- name: change_states")[1].split(" AS state,")[0]
    assert set(re.findall(r"(?:THEN|ELSE) '(\w+)'", judged)) == set(STATES)
    allowed = re.search(r"CHECK \(state IN \((.*?)\)\)", text("storage/migrations/0019_version_0_1_0.sql"))
    assert re.findall(r"'(\w+)'", allowed[1]) == list(STATES)
    console = re.search(r"SEVERITY = \[(.*?)\]", text("api/console/store.js"))
    assert set(STATES) < set(re.findall(r'"(\w+)"', console[1]))


def test_dashboards_have_a_word_for_each_outcome_and_state():
    assert {f"outcome.{name}" for name in ("received", *OUTCOMES)} == {key for key in TEXTS if key.startswith("outcome.")}
    assert {f"state.{name}" for name in STATES} <= set(TEXTS)


def test_counts_balance_if_every_reading_has_one_outcome():
    assert Counts(received=5, **dict.fromkeys(OUTCOMES, 1), overflow=1).balanced
    assert not Counts(received=4, **dict.fromkeys(OUTCOMES, 1)).balanced
    assert Counts(messages=3, stored=2) - Counts(messages=1) == Counts(messages=2, stored=2)
    assert [each.name for each in COUNTERS if each.sort is Sort.RECEIVED] == ["received"]
