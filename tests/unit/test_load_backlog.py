"""The load generator's messages on their way: no identifier twice, no message lost, whatever the broker does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citybeat.devices.wire import mqtt
from citybeat.devices.wire.mqtt import Frame, Version
from citybeat.simulator.load.backlog import Backlog
from citybeat.simulator.load.window import Window

FRAME = Frame(Version.V311, "t")
HEAD = len(FRAME.head(8)[0])


def numbers(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int64)


def acks(ids) -> mqtt.Answers:
    return mqtt.answers(b"".join(b"\x40\x02" + int(i).to_bytes(2, "big") for i in ids))


def test_a_window_gives_out_what_it_has():
    window = Window(3)
    ids = window.take(numbers(0, 5), numbers(100, 5), 7, numbers(1, 5))
    assert (ids.tolist(), window.room, window.waiting) == ([1, 2, 3], 0, 3)
    assert not len(window.take(numbers(3, 1), numbers(0, 1), 7, numbers(0, 1)))
    number, due, sent, readings, known = window.answered(np.array([3, 9, 1, 3, 65_535]))
    # The one answer to 3 that counts is the last of two in one look; one for another, or none, is no answer.
    assert sorted(zip(number.tolist(), due.tolist(), sent.tolist(), readings.tolist(), strict=True)) == [
        (0, 100, 7, 1),
        (2, 102, 7, 3),
    ]
    assert known.sum() == 2
    assert window.room == 2
    assert [column.tolist() for column in window.outstanding()] == [[1], [101], [7], [2]]


@pytest.mark.parametrize("size", [0, 65_536])
def test_a_window_has_a_size(size):
    with pytest.raises(ValueError, match="1 to 65,535"):
        Window(size)


@settings(max_examples=60)
@given(size=st.sampled_from([1, 2, 1000, 65_535]), data=st.data())
def test_no_identifier_is_given_out_twice(size, data):
    window = Window(size)
    waiting: dict[int, int] = {}  # number by identifier: the slow twin
    sent = 0
    for _ in range(data.draw(st.integers(1, 12))):
        wanted = data.draw(st.sampled_from([1, 3, 700, 3000]))
        ids = window.take(numbers(sent, wanted), numbers(sent, wanted), 1, numbers(sent, wanted)).tolist()
        assert not set(ids) & set(waiting)
        assert len(set(ids)) == len(ids) <= size
        assert all(1 <= i <= 65_535 for i in ids)
        waiting.update(zip(ids, range(sent, sent + len(ids)), strict=True))
        sent += len(ids)
        assert window.waiting == len(waiting) <= size
        order = data.draw(st.sampled_from(["first", "last", "every other"]))
        some = {"first": list(waiting)[:500], "last": list(waiting)[::-1][:500], "every other": list(waiting)[::2]}[order]
        number, *_ = window.answered(np.array(some, np.int64))
        assert number.tolist() == [waiting.pop(i) for i in some]
    assert window.outstanding()[0].tolist() == sorted(waiting.values())


def test_an_identifier_without_an_answer_is_not_given_out_again():
    window = Window(3)
    held = window.take(numbers(0, 1), numbers(0, 1), 0, numbers(0, 1)).tolist()
    given: list[int] = []
    while ids := window.take(numbers(1, 2), numbers(0, 2), 0, numbers(0, 2)).tolist():
        given += ids
        window.answered(np.array(ids))
    assert held == [1]
    assert len(given) == len(set(given)) >= 1000, "a small window is not held up for long by one answer that is late"
    assert window.answered(np.array(held))[0].tolist() == [0]
    assert window.take(numbers(9, 2), numbers(0, 2), 0, numbers(0, 2)).tolist() == [1, 2]
    assert len(window.take(numbers(0, 1000), numbers(0, 1000), 0, numbers(0, 1000))) == 1


def test_what_waits_is_kept_as_long_as_it_waits():
    backlog = Backlog(10)
    backlog.add(FRAME.pack([i.to_bytes(8, "big") for i in range(4)]))
    backlog.take(numbers(0, 4), 1)
    told, _ = backlog.answered(acks([1, 3]))
    assert told.number.tolist() == [0, 2]
    backlog.forget()
    backlog.again(10)
    out, used = backlog.take(numbers(0, 0), 2)
    assert [int.from_bytes(out[at + HEAD : at + HEAD + 8], "big") for at in range(0, len(out), HEAD + 8)] == [1, 3]
    assert used == 0
    assert not backlog.answered(acks([1, 2]))[1]
    backlog.forget()
    assert not backlog._kept


def test_identifiers_go_round_for_ever():
    assert len(Window(65_535).take(*[numbers(0, 65_535)] * 4)) == 65_535
    window = Window(1000)
    for first in range(0, 200_000, 1000):
        ids = window.take(numbers(first, 1000), numbers(0, 1000), 0, numbers(0, 1000))
        number, *_ = window.answered(ids)
        assert number[0] == first
        assert number[-1] == first + 999


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_every_message_is_answered_once_over_any_number_of_connections(data):
    backlog, came, now = Backlog(data.draw(st.integers(1, 40))), 0, 0
    on_the_way: dict[int, int] = {}  # what the broker has of this connection: the message by identifier
    answered: dict[int, tuple[int, int]] = {}
    first_sent: dict[int, int] = {}
    tries = 0

    def send(most: int) -> None:
        nonlocal tries
        due = numbers(len(first_sent) * 10, most)
        while not backlog.empty:
            out, used = backlog.take(due, now)
            due = due[used:]
            if not out:
                break
            size = HEAD + 8
            assert len(out) % size == 0
            for at in range(0, len(out), size):
                packet = bytes(out[at : at + size])
                message = int.from_bytes(packet[HEAD:], "big")
                mid = int.from_bytes(packet[HEAD - 2 : HEAD], "big")
                assert mid not in on_the_way
                assert message not in answered
                on_the_way[mid] = message
                first_sent.setdefault(message, now)
                tries += 1

    def answer(count: int) -> None:
        ids = data.draw(st.permutations(sorted(on_the_way)))[:count]
        told, strange = backlog.answered(acks([*ids, 65_535]))
        assert strange == 1
        assert told.number.tolist() == [on_the_way.pop(i) for i in ids]
        assert told.readings.tolist() == told.number.tolist()
        answered.update((n, (d, s)) for n, d, s in zip(told.number.tolist(), told.due.tolist(), told.sent.tolist(), strict=True))

    for _ in range(data.draw(st.integers(1, 25))):
        now += 1
        match data.draw(st.sampled_from(["add", "send", "answer", "lose", "forget"])):
            case "add":
                count = data.draw(st.integers(1, 30))
                payloads = [i.to_bytes(8, "big") for i in range(came, came + count)]
                backlog.add(FRAME.pack(payloads, range(came, came + count)))
                came += count
            case "send":
                send(data.draw(st.integers(0, 30)))
            case "answer":
                answer(data.draw(st.integers(0, 40)))
            case "lose":
                on_the_way.clear()
                backlog.again(data.draw(st.integers(1, 40)))
            case "forget":
                backlog.forget()
        assert backlog.waiting == len(first_sent) - len(answered)
        assert backlog.unanswered()[0].tolist() == sorted(set(first_sent) - set(answered)), "in the order of their numbers"
        assert (backlog.sent, backlog.numbered) == (len(first_sent), came)
    for _ in range(came):  # at least one message goes each time
        now += 1
        send(1000)
        answer(1000)
    assert len(answered) == came
    assert {message: sent for message, (_, sent) in answered.items()} == first_sent, "latency counts from the first try"
    assert {message: due for message, (due, _) in answered.items()} == {i: answered[i][0] for i in range(came)}
    assert backlog.resent == tries - came
    assert backlog.sent_readings == sum(range(came))
    backlog.forget()
    assert not backlog._kept
