"""The final account of `citybeat up`: what makes it balance, and what does not."""

import pytest

from citybeat.devices.ledger import Counts
from citybeat.report import Sent, build, sent_by_source

RUN = Counts(messages=10, received=100, stored=90, duplicate=5, conflict=1, missing=2, quarantined=2)


def sent(**changes):
    return Sent(**({"source": "gw-01", "numbered": 10, "unconfirmed": 0, "messages": 10, "readings": 100, "seen": 10} | changes))


def test_all_is_well():
    report = build(sent=[sent()], run=RUN, discrepancies=[], rollup_differences=[])
    assert report.ok
    assert (report.published, report.run.stored, report.in_flight, report.lost_before_broker) == (100, 90, 0, 0)


@pytest.mark.parametrize(
    ("changes", "in_flight", "lost", "balanced"),
    [
        ({"seen": 8}, 20, 0, False),  # two acknowledged messages are missing
        ({"numbered": 12, "unconfirmed": 2, "seen": 10}, 0, 2, True),  # two that nobody promised
        ({"numbered": 12, "unconfirmed": 2, "seen": 12}, 0, 0, True),  # they came all the same
        ({"numbered": 12, "unconfirmed": 2, "seen": 9}, 10, 2, False),
    ],
)
def test_messages_that_have_not_come(changes, in_flight, lost, balanced):
    report = build(sent=[sent(**changes)], run=RUN, discrepancies=[], rollup_differences=[])
    assert (report.in_flight, report.lost_before_broker, report.balanced, report.ok) == (in_flight, lost, balanced, balanced)
    assert bool(report.findings) is not balanced


@pytest.mark.parametrize(
    ("changes", "balanced", "match"),
    [({"discrepancies": ["x"]}, False, True), ({"rollup_differences": ["y"]}, True, False), ({"run": Counts()}, True, True)],
)
def test_each_of_the_three_conditions_is_needed(changes, balanced, match):
    report = build(**({"sent": [], "run": RUN, "discrepancies": [], "rollup_differences": []} | changes))
    assert (report.balanced, report.rollups_match) == (balanced, match)
    assert not report.ok


def test_the_simulators_report_is_read():
    told = {
        "sources": [
            {
                "source": "a",
                "boot": "b1",
                "last_seq": 9,
                "messages": 9,
                "readings": 90,
                "refused_messages": 1,
                "unacknowledged_messages": 0,
            },
            {
                "source": "b",
                "boot": "b2",
                "last_seq": None,
                "messages": 0,
                "readings": 0,
                "refused_messages": 0,
                "unacknowledged_messages": 0,
            },
        ]
    }
    assert sent_by_source(told, {("a", "b1"): (9, 1), ("a", "old"): (5, 0)}) == [
        Sent(source="a", numbered=10, unconfirmed=1, messages=9, readings=90, seen=9),
        Sent(source="b", numbered=0, unconfirmed=0, messages=0, readings=0, seen=0),
    ]
