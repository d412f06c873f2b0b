"""The harness itself: what it breaks is broken, and what is wrong in the books is found."""

import itertools
import socket
import threading
import time

import pytest

from tests.acceptance.faults import books, rotation
from tests.acceptance.faults.cases import CASES
from tests.acceptance.faults.proxy import Proxy, Trap
from tests.acceptance.faults.traffic import Mix, Traffic


class Echo:
    """Answers every byte with itself, in upper case."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client):
        with client:
            try:
                while data := client.recv(4096):
                    client.sendall(data.upper())
            except OSError:
                return


@pytest.fixture
def proxy():
    echo = Echo()
    made = Proxy(echo.port)
    yield made
    made.close()
    echo.listener.close()


@pytest.fixture
def client(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as made:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield made


def ask(client, data=b"ping"):
    client.sendall(data)
    answer = b""
    while len(answer) < len(data):
        part = client.recv(4096)
        assert part, "closed"
        answer += part
    return answer


def test_it_passes_on_and_closes_with_its_client(proxy, client):
    assert ask(client) == b"PING"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(10) == b""


@pytest.mark.parametrize("pieces", [[b"...commit..."], [b"...com", b"mit..."], [bytes([byte]) for byte in b"xcommitx"]])
def test_a_trap_sees_its_bytes_in_one_piece_or_many(proxy, client, pieces):
    trap = proxy.trap(Trap(b"commit", "to server"))
    for piece in pieces:
        client.sendall(piece)
        time.sleep(0.02)  # so that the pieces are read one by one
    trap.wait()
    trap.release()
    whole = b"".join(pieces).upper()
    answer = b""
    while len(answer) < len(whole):
        answer += client.recv(100)
    assert answer == whole


def test_a_trap_holds_back_what_it_waits_for(proxy, client):
    trap = proxy.trap(Trap(b"COMMIT", "to client", skip=1))
    assert ask(client, b"commit") == b"COMMIT"
    client.sendall(b"and commit")
    trap.wait()
    assert client.recv(100) == b"AND "
    trap.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(100)


def test_a_trap_for_marked_connections_leaves_others_alone(proxy, client):
    trap = proxy.trap(Trap(b"commit", "to server", marker=b"writer"))
    assert ask(client, b"commit") == b"COMMIT"
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as other:
        assert ask(other, b"i am a writer") == b"I AM A WRITER"
        other.sendall(b"commit")
        trap.wait()
        trap.release()
        assert other.recv(100) == b"COMMIT"


def test_a_cut_connection_is_reset_and_the_next_one_works(proxy, client):
    assert ask(client) == b"PING"
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as other:
        assert ask(other) == b"PING"
    assert proxy.cut() <= 1


def test_a_stalled_connection_goes_on_where_it_was(proxy, client):
    assert ask(client) == b"PING"
    proxy.stall()
    client.sendall(b"pong")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(1)
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3)
    proxy.resume()
    client.settimeout(10)
    assert client.recv(100) == b"PONG"


def test_a_lost_connection_is_dead_for_the_kernel_too(proxy, client):
    """Nothing is acknowledged, so that TCP gives up; a proxy that only stops reading would keep it alive."""
    assert ask(client) == b"PING"
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
    assert proxy.lose() == 1
    client.sendall(b"hello?")
    with pytest.raises(TimeoutError) as told:
        client.recv(1)
    assert told.value.errno is not None  # by the kernel, not by the socket's own time limit
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as other:
        assert ask(other) == b"PING"


def test_connections_are_refused_for_a_while(proxy, client):
    assert ask(client) == b"PING"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    assert ask(client) == b"PING"
    proxy.accept()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as other:
        assert ask(other) == b"PING"


def test_a_slow_link_is_slow(proxy, client):
    ask(client)
    proxy.slow(10_000)
    began = time.monotonic()
    ask(client, b"x" * 5_000)
    assert time.monotonic() - began > 0.4  # the first read is of the old size, and the rest is paced twice


# --- books


def traffic(**changes):
    given = {
        "source": "s",
        "prefix": "d",
        "foreign": "f",
        "boot": "b",
        "seed": 7,
        "numbered": True,
        "once": False,
        "start": 1_767_225_600_000_000,
    }
    return Traffic(**given | changes)


def played(mix, count=400):
    """Messages that were all acknowledged, and what a database has when everything went well."""
    sent = list(itertools.islice(traffic(mix=mix), count))
    stored, quarantined = {}, []
    for one in sent:
        one.acknowledged = float(one.number)
        reasons = set(one.reasons)
        for device, metric, at, value in one.readings:
            if stored.setdefault((device, metric, at), value) != value:
                reasons.add("conflict")
        for device, metric, value in one.timeless:
            stored[device, metric, one.number] = value
        if reasons:
            quarantined.append((one.topic, one.payload, frozenset(reasons)))
    return sent, stored, quarantined, {(one.source, one.seq) for one in sent if one.seq is not None}


def found(stored, quarantined, seen):
    return books.Found(stored=[(*key, value) for key, value in stored.items()], quarantined=quarantined, seen=frozenset(seen))


@pytest.fixture
def whole():
    return played(Mix(late=0.1, repeated=0.1, timeless=0.1, conflicts=0.1, poison=0.2))


def test_the_same_seed_sends_the_same():
    assert list(itertools.islice(traffic(), 200)) == list(itertools.islice(traffic(), 200))
    assert list(itertools.islice(traffic(), 200)) != list(itertools.islice(traffic(seed=8), 200))


def test_every_kind_of_message_is_sent_and_no_two_payloads_are_equal(whole):
    sent = whole[0]
    assert {one.what.partition(":")[0] for one in sent} == {"plain", "late", "repeated", "timeless", "conflict", "poison"}
    assert len({one.payload for one in sent}) == len(sent)


def test_books_that_agree(whole):
    sent, *there = whole
    assert books.compare(sent, found(*there)).differences == []


def first(sent, what):
    return next(one for one in sent if one.what == what)


def lose_a_reading(sent, stored, quarantined, seen):
    del stored[first(sent, "late").readings[0][:3]]


def change_a_value(sent, stored, quarantined, seen):
    stored[first(sent, "plain").readings[2][:3]] += 1


def keep_the_loser(sent, stored, quarantined, seen):
    for device, metric, at, value in first(sent, "conflict").readings:
        stored[device, metric, at] = value


def invent_a_reading(sent, stored, quarantined, seen):
    stored["d-0", "pm25", 17] = 3.0


def store_twice(sent, stored, quarantined, seen):
    device, metric, value = first(sent, "timeless").timeless[0]
    stored[device, metric, 10**9] = value


def forget_a_refusal(sent, stored, quarantined, seen):
    quarantined.pop()


def refuse_twice(sent, stored, quarantined, seen):
    numbered = {one.payload for one in sent if one.seq is not None}
    quarantined.append(next(row for row in quarantined if row[1] in numbered))


def refuse_twice_what_has_no_number(sent, stored, quarantined, seen):
    numbered = {one.payload for one in sent if one.seq is not None}
    quarantined.append(next(row for row in quarantined if row[1] not in numbered))


def refuse_for_another_reason(sent, stored, quarantined, seen):
    topic, payload, _ = quarantined[0]
    quarantined[0] = (topic, payload, frozenset({"retired"}))


def quarantine_what_nobody_sent(sent, stored, quarantined, seen):
    quarantined.append(("city/v1/s/readings", b"hello", frozenset({"malformed"})))


def make_a_hole(sent, stored, quarantined, seen):
    seen.remove(("s", 3))


def see_what_nobody_sent(sent, stored, quarantined, seen):
    seen.add(("s", 10**6))


SABOTAGE = [
    lose_a_reading,
    change_a_value,
    keep_the_loser,
    invent_a_reading,
    store_twice,
    forget_a_refusal,
    refuse_twice,
    refuse_for_another_reason,
    quarantine_what_nobody_sent,
    make_a_hole,
    see_what_nobody_sent,
]


def test_what_has_no_number_may_be_refused_twice_if_it_may_come_twice(whole):
    sent, *there = whole
    refuse_twice_what_has_no_number(sent, *there)
    assert books.compare(sent, found(*there)).differences == []
    assert books.compare(sent, found(*there), once=True).differences != []


@pytest.mark.parametrize("sabotage", SABOTAGE, ids=lambda sabotage: sabotage.__name__)
def test_books_that_do_not_agree(whole, sabotage):
    sent, *there = whole
    sabotage(sent, *there)
    assert books.compare(sent, found(*there)).differences != []


def test_what_may_be_lost_is_counted_and_has_to_be_a_hole():
    sent, stored, quarantined, seen = played(Mix(late=0, repeated=0, timeless=0, conflicts=0, poison=0), 20)
    for one in sent[-5:]:
        for reading in one.readings:
            del stored[reading[:3]]
    told = books.compare(sent, found(stored, quarantined, seen), may_be_lost=lambda one: one.number >= 15)
    assert len(told.differences) == 5  # their numbers were seen
    seen -= {("s", seq) for seq in range(15, 20)}
    told = books.compare(sent, found(stored, quarantined, seen), may_be_lost=lambda one: one.number >= 15)
    assert told.differences == []
    assert told.lost == sent[-5:]
    assert books.compare(sent, found(stored, quarantined, seen), may_be_lost=lambda one: one.number >= 16).differences != []
    for reading in sent[-1].readings[:3]:
        stored[reading[:3]] = reading[3]
    told = books.compare(sent, found(stored, quarantined, seen), may_be_lost=lambda one: one.number >= 15)
    assert "half" in told.differences[0]


def test_what_was_lost_may_be_there_by_another_message():
    sent, stored, quarantined, seen = played(Mix(late=0, repeated=0.2, timeless=0, conflicts=0.2, poison=0), 100)
    again = first(sent, "repeated")
    original = next(one for one in sent if one.readings == again.readings)
    seen.remove(("s", original.seq))
    told = books.compare(sent, found(stored, quarantined, seen), may_be_lost=lambda one: one is original)
    assert (told.differences, told.lost) == ([], [original])


def test_what_was_not_acknowledged_may_be_there_or_not():
    sent, stored, quarantined, seen = played(Mix(poison=0), 50)
    sent[-1].acknowledged = None
    assert books.compare(sent, found(stored, quarantined, seen)).differences == []


# --- rotation


def test_cases_have_names_of_their_own_and_pending_ones_say_what_they_need():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_a_day_of_commits_plays_every_case_and_none_too_many():
    played = set()
    for commit in range(20):
        chosen = rotation.chosen(CASES, which="", commit=f"{commit:x}")
        assert chosen == rotation.chosen(CASES, which="", commit=f"{commit:x}")
        assert 0.8 * min(rotation.BUDGET, sum(case.seconds for case in CASES)) <= sum(case.seconds for case in chosen)
        assert sum(case.seconds for case in chosen) <= rotation.BUDGET
        played |= {case.name for case in chosen}
    assert played == {case.name for case in CASES}
    assert rotation.chosen(CASES, which="all") == CASES
    assert rotation.chosen(CASES, which="killed", commit="1") == [case for case in CASES if "killed" in case.name]


def test_without_git_the_choice_is_still_one(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert len(rotation._commit()) == len("2026-01-01")
