import threading
import time

from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.inbox import BatchSize, Inbox


def message(number, size=10, qos=1):
    return Message("city/v1/gw/readings", b"x" * size, number, False, qos, number, 1)


def test_batches_are_bounded_by_messages_and_bytes_and_keep_their_order():
    inbox = Inbox()
    for number in range(10):
        inbox.put([message(number)])
    assert [m.mid for m in inbox.take(BatchSize(messages=4, bytes=1000, linger=0), 1)] == [0, 1, 2, 3]
    assert [m.mid for m in inbox.take(BatchSize(messages=100, bytes=25, linger=0), 1)] == [4, 5, 6]
    assert [m.mid for m in inbox.take(BatchSize(messages=100, bytes=1000, linger=0), 1)] == [7, 8, 9]
    assert inbox.take(BatchSize(), 0.01) == []


def test_a_message_larger_than_a_batch_is_a_batch():
    inbox = Inbox()
    inbox.put([message(1, size=100)])
    assert len(inbox.take(BatchSize(bytes=10, linger=0), 1)) == 1


def test_what_is_put_back_comes_first_again():
    inbox = Inbox()
    for number in range(6):
        inbox.put([message(number)])
    batch = inbox.pop(BatchSize(messages=3))
    assert (len(inbox), inbox.bytes) == (3, 30)
    inbox.put_back(batch)
    assert (len(inbox), inbox.bytes) == (6, 60)
    assert [m.mid for m in inbox.take(BatchSize(linger=0), 1)] == [0, 1, 2, 3, 4, 5]


def test_a_waiting_consumer_wakes():
    inbox = Inbox()
    got = []
    thread = threading.Thread(target=lambda: got.append(inbox.take(BatchSize(linger=0.01), 10)))
    thread.start()
    time.sleep(0.05)
    inbox.put([message(1)])
    thread.join(5)
    assert [m.mid for m in got[0]] == [1]


def test_nothing_is_lost_between_two_threads():
    inbox, seen, total = Inbox(), [], 20_000
    producer = threading.Thread(target=lambda: [inbox.put([message(n, size=1)]) for n in range(total)])
    producer.start()
    while len(seen) < total:
        batch = inbox.take(BatchSize(messages=7, linger=0), 5)
        assert batch
        seen += [m.mid for m in batch]
    producer.join()
    assert seen == list(range(total))
