"""Clocks, gateways and malformed messages: what each kind does on the way, and that it leaves everything else as it is."""

from collections import Counter
from datetime import UTC, datetime
from itertools import count, pairwise
from unittest import mock

import numpy as np
import orjson
import pytest

from citybeat.devices.batch import MICROSECOND, NEVER
from citybeat.devices.errors import Reason
from citybeat.ingest.judging.decode import decode
from citybeat.ingest.judging.message import Message as Received
from citybeat.ingest.judging.validate import Limits
from citybeat.simulator.city import layout as cities
from citybeat.simulator.city import schedule, signals
from citybeat.simulator.faults import measuring
from citybeat.simulator.faults.clocks import RESTART
from citybeat.simulator.faults.delivery import Break, Message, Unsent, unsent
from citybeat.simulator.faults.gateway import BATCH, Gateway
from citybeat.simulator.faults.kinds import Fault, FaultSpec, Where
from citybeat.simulator.faults.malformed import READINGS, REPORTS, SWALLOWED, WHOLE, Form, spoil
from citybeat.simulator.faults.rows import FAULTS, FUTURE_LIMIT, OLDEST, OUTCOMES, REASONS

BEGIN = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * MICROSECOND
SOURCES = ("gw-1", "gw-2")
CITY = cities.build(devices=40, gateways=SOURCES, seed=3)
PLAN = schedule.plan(CITY)


_SAMPLE, _SAMPLED = signals.sample, {}


def _sampled(table, series, time):
    """`signals.sample`, which takes most of the time here, and is asked the same by every test."""
    key = (id(table), series.tobytes(), time.tobytes())
    if key not in _SAMPLED:
        _SAMPLED[key] = _SAMPLE(table, series, time)
    return _SAMPLED[key]


def drive(*specs, seconds=3600, chunk=60, lag=0, finish=True, city=CITY):
    """Steps of every gateway, with the chunks of a run that looks at its clock once a minute."""
    placed = measuring.place(specs, city, begin=BEGIN)
    now = [0]
    gateways = {}
    for source in city.sources:
        names = (f"{source}-boot{number}" for number in count())
        other = next(device for device in range(len(city)) if city.source(device) != source)
        gateways[source] = Gateway(
            source,
            seed=city.seed,
            faults=placed.gateways,
            known=placed.known,
            events=placed.events,
            boot=lambda names=names: next(names),
            now=lambda: now[0],
            foreign=city.id(other),
        )
    steps = {source: [] for source in city.sources}
    plan = schedule.plan(city)
    for after in range(0, seconds, chunk):
        until = BEGIN + (after + chunk) * MICROSECOND
        now[0] = until + lag
        with mock.patch.object(measuring.signals, "sample", _sampled):
            bundles, silent = measuring.measured(city, placed, schedule.due(plan, BEGIN + after * MICROSECOND, until))
        for source, rows in silent.items():
            steps[source].append(Unsent(rows=unsent(rows)))
        for source, bundle in bundles.items():
            steps[source] += gateways[source].take(bundle)
    for source, gateway in gateways.items():
        steps[source] += gateway.finish() if finish else gateway.give_up()
    return steps


def rows_of(steps, sources=SOURCES):
    return np.concatenate([step.rows for source in sources for step in steps[source] if not isinstance(step, Break)])


def labels(rows):
    """Number of rows of each (delivery, outcome, reason)."""
    return Counter(
        (FAULTS[d], OUTCOMES[o].value, REASONS[r])
        for d, o, r in zip(rows["delivery"].tolist(), rows["outcome"].tolist(), rows["reason"].tolist(), strict=True)
    )


def messages(steps, source="gw-1"):
    return [step for step in steps[source] if isinstance(step, Message)]


def said(message):
    """Readings of a payload: (device, metric, us or None, value)."""
    read = decode([received(message)], max_bytes=10**6).decoded
    assert not read.refused
    return list(zip(read.device, read.metric, read.time.tolist(), read.value.tolist(), strict=True))


def received(message, source="gw-1"):
    return Received(
        topic=f"city/v1/{source}/{message.channel}",
        payload=message.payload,
        received_at=0,
        redelivered=False,
        qos=1,
        mid=1,
        epoch=1,
    )


CLEAN = drive()


def test_without_faults_the_rows_are_what_the_payloads_say():
    for source in SOURCES:
        for number, message in enumerate(messages(CLEAN, source)):
            assert (message.seq, message.boot, message.sent, message.numbered) == (number, f"{source}-boot0", True, True)
            rows = message.rows
            wanted = [
                (CITY.id(int(CITY.series.device[s])), CITY.series.metrics[CITY.series.metric[s]], t, v)
                for s, t, v in zip(rows["series"].tolist(), rows["claimed"].tolist(), rows["value"].tolist(), strict=True)
            ]
            assert said(message) == wanted
            assert rows["index"].tolist() == list(range(len(rows)))
            np.testing.assert_array_equal(rows["value"], rows["true"])
            np.testing.assert_array_equal(rows["time"], rows["claimed"])
    assert labels(rows_of(CLEAN)) == {("", "stored", ""): len(rows_of(CLEAN))}


@pytest.mark.parametrize(
    "spec",
    [
        FaultSpec(kind=Fault.SPIKE, rate=2.0, where=Where(share=0.1)),
        FaultSpec(kind=Fault.STUCK, where=Where(ids=("env-00001",), metrics=("pm25",))),
        FaultSpec(kind=Fault.SENTINEL, chance=0.01),
        FaultSpec(kind=Fault.DROPOUT, chance=0.01),
        FaultSpec(kind=Fault.CLOCK, offset=-50.0, where=Where(share=0.05)),
        FaultSpec(kind=Fault.LOST, chance=0.1),
        FaultSpec(kind=Fault.DUPLICATE, chance=0.1),
        FaultSpec(kind=Fault.REORDERED, chance=0.1),
        FaultSpec(kind=Fault.MALFORMED, chance=0.1),
    ],
)
def test_messages_that_nothing_hits_are_those_of_the_clean_city_to_the_byte(spec):
    found = drive(spec)
    clean = {(m.boot, m.seq): m.payload for source in SOURCES for m in messages(CLEAN, source)}
    hit = alike = 0
    for source in SOURCES:
        for message in messages(found, source):
            if (message.rows["delivery"] > 0).any() or (message.rows["fault"] > 0).any():
                hit += 1
            else:
                assert message.payload == clean[message.boot, message.seq]
                alike += 1
    assert hit
    assert alike
    assert found_readings(found) == found_readings(CLEAN)


def found_readings(steps):
    """Readings that were measured, whatever their outcome; those that were sent twice, once."""
    rows = rows_of(steps)
    return {(s, t): v for s, t, v in zip(rows["series"].tolist(), rows["time"].tolist(), rows["true"].tolist(), strict=True)}


def test_lost_messages_use_up_their_numbers():
    found = messages(drive(FaultSpec(kind=Fault.LOST, chance=0.2)))
    lost = [message for message in found if not message.sent]
    assert 0.05 < len(lost) / len(found) < 0.4
    assert [message.seq for message in found] == list(range(len(found)))
    for message in lost:
        assert set(labels(message.rows)) == {("lost", "lost", "")}
        assert len(set(message.rows["delivery_event"].tolist())) == 1
    assert len({m.rows["delivery_event"][0] for m in lost}) == len(lost)


def test_repeated_messages_are_the_same_bytes():
    specs = (FaultSpec(kind=Fault.SENTINEL, chance=0.1), FaultSpec(kind=Fault.DUPLICATE, chance=0.2))
    found = messages(drive(*specs))
    again = [(first, second) for first, second in pairwise(found) if first.seq == second.seq]
    assert again
    assert len(found) - len(again) == len({message.seq for message in found})
    for first, second in again:
        assert (first.payload, first.boot) == (second.payload, second.boot)
        assert {key[:2] for key in labels(first.rows)} <= {("", "stored"), ("", "missing")}
        assert {key[:2] for key in labels(second.rows)} <= {("duplicate", "duplicate"), ("duplicate", "missing")}


@pytest.mark.parametrize("kind", [Fault.DUPLICATE, Fault.CONFLICT])
def test_single_readings_again(kind):
    mode = {"mode": "reading"} if kind is Fault.DUPLICATE else {}
    specs = (
        FaultSpec(kind=Fault.NO_TIME, chance=0.05),
        FaultSpec(kind=Fault.SENTINEL, chance=0.1),
        FaultSpec(kind=kind, chance=0.1, **mode),
    )
    steps = drive(*specs)
    for source in SOURCES:
        stored = {}
        copies = 0
        for message in messages(steps, source):
            assert len(said(message)) == len(message.rows)
            for place, row in zip(said(message), message.rows, strict=True):
                if FAULTS[row["delivery"]] != kind.value:
                    if OUTCOMES[row["outcome"]] == "stored" and row["claimed"] != NEVER:
                        stored[place[:3]] = place[3]
                    continue
                copies += 1
                assert OUTCOMES[row["outcome"]] == kind.value
                assert (stored[place[:3]] == place[3]) == (kind is Fault.DUPLICATE)  # it came before, and is stored
                assert place[3] == row["value"]
        assert copies > 50


def test_an_overtaken_message_keeps_its_number_and_comes_later():
    found = messages(drive(FaultSpec(kind=Fault.REORDERED, chance=0.1, depth=2)))
    order = [message.seq for message in found]
    assert sorted(order) == list(range(len(order)))
    assert order != sorted(order)
    for place, message in enumerate(found):
        overtaken = {key[0] for key in labels(message.rows)} == {"reordered"}
        assert ({other.seq for other in found[place + 1 :]} & set(range(message.seq)) == set()) or not overtaken
        if overtaken:
            assert len([other for other in found[:place] if other.seq > message.seq]) >= min(1, len(found) - 1 - message.seq)


def test_an_outage_ends_in_a_burst():
    spec = FaultSpec(kind=Fault.LATE, from_=600.0, until=1800.0, where=Where(gateways=("gw-1",)))
    steps = drive(spec)
    found = messages(steps)
    late = [i for i, message in enumerate(found) if {key[0] for key in labels(message.rows)} == {"late"}]
    assert late == list(range(late[0], late[-1] + 1))  # nothing between
    rows = np.concatenate([found[i].rows for i in late])
    assert (rows["time"].min(), rows["time"].max()) >= (BEGIN + 600 * MICROSECOND, BEGIN + 1700 * MICROSECOND)
    assert rows["time"].max() < BEGIN + 1800 * MICROSECOND
    assert all(len(found[i].rows) >= BATCH for i in late[:-1])  # full, as those of a gateway that caught up are
    assert [message.seq for message in found] == list(range(len(found)))
    assert found_readings(steps) == found_readings(CLEAN)
    assert [m.payload for m in messages(steps, "gw-2")] == [m.payload for m in messages(CLEAN, "gw-2")]
    assert set(rows["delivery_event"].tolist()) == {0}


def test_an_outage_at_the_end_ends_with_the_run_or_is_never_over():
    spec = FaultSpec(kind=Fault.LATE, from_=1800.0)
    sent, given_up = rows_of(drive(spec)), rows_of(drive(spec, finish=False))
    assert labels(sent)["late", "stored", ""] == labels(given_up)["late", "lost", ""] > 0
    unsent_rows = given_up[given_up["delivery"] > 0]
    assert set(unsent_rows["index"].tolist()) == {-1}


def test_a_reboot_begins_again_at_0():
    specs = (FaultSpec(kind=Fault.REBOOT, from_=600.0, until=900.0, where=Where(gateways=("gw-1",))),)
    steps = drive(*specs)
    found = messages(steps)
    boots = [message.boot for message in found]
    assert list(dict.fromkeys(boots)) == ["gw-1-boot0", "gw-1-boot1"]
    second = boots.index("gw-1-boot1")
    assert [message.seq for message in found] == [*range(second), *range(len(found) - second)]
    assert set(labels(found[second].rows)) == {("reboot", "stored", "")}
    down = np.concatenate([step.rows for step in steps["gw-1"] if isinstance(step, Unsent)])
    assert set(labels(down)) == {("reboot", "lost", "")}
    assert ((down["time"] >= BEGIN + 600 * MICROSECOND) & (down["time"] < BEGIN + 900 * MICROSECOND)).all()
    assert found_readings(steps) == found_readings(CLEAN)
    moments = drive(FaultSpec(kind=Fault.REBOOT, rate=3.0))
    assert len({message.boot for message in messages(moments)}) == 4
    assert not any(isinstance(step, Unsent) for step in moments["gw-1"])


def test_a_flap_breaks_the_connection_and_sends_the_last_message_again():
    both = drive(FaultSpec(kind=Fault.FLAP, rate=5.0))
    assert found_readings(both) == found_readings(CLEAN)
    steps = both["gw-1"]
    breaks = [i for i, step in enumerate(steps) if isinstance(step, Break)]
    assert len(breaks) == 5
    for i in breaks:
        before = [step for step in steps[:i] if isinstance(step, Message)]
        if before:
            assert (steps[i + 1].payload, steps[i + 1].seq) == (before[-1].payload, before[-1].seq)
            assert set(labels(steps[i + 1].rows)) == {("flap", "duplicate", "")}


# --- clocks


def reports(steps):
    rows = rows_of(steps)
    return rows[rows["delivery"] == FAULTS.index("clock")]


@pytest.mark.parametrize("offset", [-30.0, 400.0, -86_400.0])
def test_a_clock_that_is_off(offset):
    rows = reports(drive(FaultSpec(kind=Fault.CLOCK, offset=offset, where=Where(share=0.3))))
    off = rows["claimed"] - rows["time"]
    assert len(rows) > 100
    assert (np.abs(off - offset * MICROSECOND) < 1000).all()
    assert (rows["claimed"] % 1000 != 0).all()
    assert set(labels(rows)) == {("clock", "stored", "")}


def test_a_clock_that_drifts_and_one_that_jumps():
    rows = reports(drive(FaultSpec(kind=Fault.CLOCK, mode="drift", offset=-300.0, until=3600.0)))
    wanted = -300.0 * (rows["time"] - BEGIN) / 3600.0
    assert (np.abs(rows["claimed"] - rows["time"] - wanted) < 2000).all()
    rows = reports(drive(FaultSpec(kind=Fault.CLOCK, mode="jump", offset=-300.0, every=600.0)))
    part = (rows["time"] - BEGIN) // (600 * MICROSECOND)
    off = (rows["claimed"] - rows["time"]) // 1000  # ms
    jumps = {}
    for device, stretch, by in zip(CITY.series.device[rows["series"]].tolist(), part.tolist(), off.tolist(), strict=True):
        jumps.setdefault((device, stretch), set()).add(by)
    assert all(max(each) - min(each) <= 1 and min(each) >= -300_001 and max(each) <= -30_000 + 1 for each in jumps.values())
    assert len({min(each) for each in jumps.values()}) > 100


def test_a_clock_that_restarts_and_one_that_is_far_ahead_are_refused():
    rows = reports(drive(FaultSpec(kind=Fault.CLOCK, mode="restart", from_=60.0), seconds=600))
    np.testing.assert_array_equal(rows["claimed"] - RESTART, rows["time"] - BEGIN - 60 * MICROSECOND)
    assert set(labels(rows)) == {("clock", "quarantined", "too_old")}
    rows = reports(drive(FaultSpec(kind=Fault.CLOCK, offset=900.0), seconds=600))
    assert set(labels(rows)) == {("clock", "quarantined", "too_far_ahead")}
    rows = reports(
        drive(FaultSpec(kind=Fault.CLOCK, offset=900.0), seconds=600, lag=3600 * MICROSECOND)
    )  # simulated time is behind the clock
    assert set(labels(rows)) == {("clock", "stored", "")}


def test_nothing_is_so_far_ahead_that_nobody_knows_whether_it_is_refused():
    steps = drive(FaultSpec(kind=Fault.CLOCK, offset=610.0, where=Where(share=0.5)), seconds=600)
    for source in SOURCES:
        for message in messages(steps, source):
            now = -(-int(message.rows["time"].max() - BEGIN) // (60 * MICROSECOND)) * 60 * MICROSECOND + BEGIN
            ahead = message.rows["claimed"] - now - FUTURE_LIMIT
            assert (np.abs(ahead) >= 29 * MICROSECOND).all()
            assert [place[2] for place in said(message)] == message.rows["claimed"].tolist()
    assert set(labels(reports(steps))) == {("clock", "stored", ""), ("clock", "quarantined", "too_far_ahead")}


def test_wrong_times_never_meet_others_of_their_series():
    specs = [
        FaultSpec(kind=Fault.CLOCK, mode=mode, offset=-600.0, rate=2.0, duration=1200.0, where=Where(share=0.5), **more)
        for mode, more in (("fixed", {}), ("drift", {}), ("jump", {"every": 100.0}))
    ]
    rows = rows_of(drive(*specs))
    seen = Counter(zip(rows["series"].tolist(), rows["claimed"].tolist(), strict=True))
    assert max(seen.values()) == 1


def test_reports_without_a_time_go_alone():
    found = [m for source in SOURCES for m in messages(drive(FaultSpec(kind=Fault.NO_TIME, chance=0.1), seconds=1200), source)]
    bare = [message for message in found if (message.rows["claimed"] == NEVER).any()]
    assert len(bare) > 50
    for message in bare:
        body = orjson.loads(message.payload)["readings"]
        assert "ts" not in body
        assert len(body["values"]) == len(message.rows)
        assert set(labels(message.rows)) == {("no_time", "stored", "")}


def test_of_two_faults_the_first_in_the_file_is_told():
    no_time, lost = FaultSpec(kind=Fault.NO_TIME), FaultSpec(kind=Fault.LOST)
    assert set(labels(rows_of(drive(no_time, lost, seconds=300)))) == {("no_time", "lost", "")}
    assert set(labels(rows_of(drive(lost, no_time, seconds=300)))) == {("lost", "lost", "")}
    fixed, drift = FaultSpec(kind=Fault.CLOCK, offset=-7.0), FaultSpec(kind=Fault.CLOCK, mode="restart")
    assert set(labels(rows_of(drive(fixed, drift, seconds=300)))) == {("clock", "stored", "")}


# --- malformed messages


def test_the_limits_are_ingests_own():
    assert (Limits().oldest, Limits().future_limit) == (OLDEST, FUTURE_LIMIT)


SOUND = [
    {"device": f"env-{i}", "ts": 1_767_225_600_000 + i, "values": {"pm25": 10.5 + i, "no2": 3.0, "temperature": 20.0}}
    for i in range(4)
]


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("chance", [0.0, 0.37, 0.999])
def test_each_form_is_read_as_it_says(form, chance):
    spoiled = spoil(form, SOUND, seq=12, boot="b0123456", chance=chance, foreign="trf-9")
    read = decode([received(spoiled)], max_bytes=10**6).decoded  # channel and payload are all it needs
    whole = [refusal for refusal in read.refused if refusal.index is None]
    assert ({(12, "b0123456")} == {(int(read.seq[0]), read.boot[0])}) == spoiled.numbered
    if form in WHOLE:
        assert [refusal.reason for refusal in whole] == [spoiled.reason] == [WHOLE[form][0]]
        assert int(read.received[0]) == 0
        return
    assert not whole
    first = 3 * spoiled.report
    hit = [first] if form in SWALLOWED else list(range(first, first + 3))
    if spoiled.metric is not None:
        hit = [first + list(SOUND[0]["values"]).index(spoiled.metric)]
    assert int(read.received[0]) == (10 if form in SWALLOWED else 12)
    refused = {refusal.index: refusal.reason for refusal in read.refused}
    seen = dict(
        zip(read.index.tolist(), zip(read.device, read.metric, read.time.tolist(), read.value.tolist(), strict=True), strict=True)
    )
    if form in {Form.UNKNOWN_DEVICE, Form.LONG_DEVICE, Form.FOREIGN_DEVICE}:  # the registry says so, later
        assert {seen[i][0] for i in hit} & {report["device"] for report in SOUND} == set()
    elif form in {Form.UNKNOWN_METRIC, Form.LONG_METRIC}:
        assert seen[hit[0]][1] not in SOUND[0]["values"]
    elif form is Form.VALUE_HUGE:
        assert seen[hit[0]][3] > 1e100
    elif form is Form.TIME_SECONDS:
        assert {seen[i][2] for i in hit} == {spoiled.claimed}
        assert spoiled.claimed < OLDEST
    else:
        assert refused == dict.fromkeys(hit, (READINGS | REPORTS)[form])
    shift = 2 if form in SWALLOWED else 0
    for i in range(12):  # the neighbours are there as they were
        report, metric = SOUND[i // 3], list(SOUND[0]["values"])[i % 3]
        place = i - shift if i // 3 > spoiled.report else i
        if i // 3 != spoiled.report or (spoiled.metric is not None and metric != spoiled.metric):
            assert seen[place] == (report["device"], metric, report["ts"] * 1000, report["values"][metric])


def test_a_form_that_cannot_be_had():
    bare = [{"device": "a", "values": {"pm25": None}}]
    for form in (Form.TIME_NAIVE, Form.VALUE_TEXT, Form.FOREIGN_DEVICE):
        assert spoil(form, bare, seq=1, boot="b", chance=0.5) is None
    assert spoil(Form.FOREIGN_DEVICE, SOUND, seq=1, boot="b", chance=0.5) is None


def test_malformed_messages_are_labelled_reading_by_reading():
    steps = drive(FaultSpec(kind=Fault.MALFORMED, chance=0.5), FaultSpec(kind=Fault.SENTINEL, chance=0.05))
    reasons = Counter()
    for source in SOURCES:
        for message in messages(steps, source):
            read = decode([received(message, source)], max_bytes=10**6).decoded
            rows = message.rows
            hit = rows["delivery"] == FAULTS.index("malformed")
            assert message.malformed == hit.any()
            assert len(set(rows["delivery_event"][hit].tolist())) <= 1
            assert message.numbered == (int(read.seq[0]) == message.seq)
            if (rows["outcome"] == OUTCOMES.index("undecodable")).any():
                assert hit.all()
                assert [refusal.reason.value for refusal in read.refused] == [REASONS[rows["reason"][0]]]
            else:
                inside = rows[rows["index"] >= 0]
                assert inside["index"].tolist() == list(range(int(read.received[0])))
                late = {Reason.UNKNOWN_DEVICE, Reason.SOURCE_MISMATCH, Reason.UNKNOWN_METRIC, Reason.NOT_FINITE, Reason.TOO_OLD}
                wanted = {int(i): REASONS[r] for i, r in zip(inside["index"], inside["reason"], strict=True) if REASONS[r]}
                assert {r.index: r.reason.value for r in read.refused} == {i: r for i, r in wanted.items() if Reason(r) not in late}
                values = dict(zip(read.index.tolist(), read.value.tolist(), strict=True))
                for row in inside[[i in values for i in inside["index"].tolist()]]:
                    np.testing.assert_equal(values[int(row["index"])], float(row["value"]))
            reasons.update(REASONS[r] for r in rows["reason"][hit].tolist())
    assert len(reasons) > 10
