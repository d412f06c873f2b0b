"""The spool on a real file system: its content after a crash, and damaged files."""

import os
import sqlite3
import subprocess
import sys
from uuid import uuid4

import pytest

from citybeat.ingest.judging.message import Message
from citybeat.ingest.transport.spool import DAMAGED, Spool, SpoolDamagedError, SpoolFullError, SpoolInUseError, leftovers


def batch(*payloads):
    return [Message("city/v1/gw/readings", payload, 7, i % 2 == 0, 1, i, 3) for i, payload in enumerate(payloads)]


def contents(messages):
    return [(m.topic, m.payload, m.received_at, m.redelivered) for m in messages]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool" / "gw.spool"


def test_batches_come_back_in_order_with_their_ids_and_survive_a_restart(path):
    spool, ids = Spool(path, max_bytes=1000), [uuid4() for _ in range(3)]
    sent = [batch(b"one", b"\xff\x00two"), batch(b"three"), batch(b"")]
    for batch_id, messages in zip(ids, sent, strict=True):
        spool.append(batch_id, messages)
    assert (len(spool), spool.messages, spool.bytes) == (3, 4, 13)
    spool.close()
    spool = Spool(path, max_bytes=1000)
    assert (len(spool), spool.messages, spool.bytes) == (3, 4, 13)
    assert spool.oldest is not None
    for batch_id, messages in zip(ids, sent, strict=True):
        row = spool.first()
        assert (row.id, contents(row.messages)) == (batch_id, contents(messages))
        assert spool.first().number == row.number
        spool.remove(row)
    assert spool.first() is None
    assert (len(spool), spool.messages, spool.bytes, spool.oldest) == (0, 0, 0, None)
    spool.append(ids[0], sent[0])  # an emptied one goes on
    spool.remove(spool.first())
    spool.delete()
    assert list(path.parent.iterdir()) == []


def test_a_spool_with_rows_is_not_deleted(path):
    spool = Spool(path, max_bytes=1000)
    spool.append(uuid4(), batch(b"x"))
    spool.delete()
    assert leftovers(path.parent) == [path]
    assert leftovers(path.parent / "nowhere") == []


def test_it_takes_no_more_than_it_may(path):
    spool = Spool(path, max_bytes=10)
    spool.append(uuid4(), batch(b"123456"))
    with pytest.raises(SpoolFullError, match="CITYBEAT_SPOOL_BYTES"):
        spool.append(uuid4(), batch(b"12345"))
    assert (len(spool), spool.bytes) == (1, 6)
    spool.append(uuid4(), batch(b"1234"))
    spool.remove(spool.first())
    spool.append(uuid4(), batch(b"123456"))
    assert [contents(spool.first().messages)[0][1], spool.bytes] == [b"1234", 10]
    spool.close()


def test_several_share_a_limit(tmp_path):
    together = []
    one, two = (Spool(tmp_path / f"{name}.spool", max_bytes=10, together=together) for name in "ab")
    one.append(uuid4(), batch(b"123456"))
    with pytest.raises(SpoolFullError, match="6 bytes are spooled"):
        two.append(uuid4(), batch(b"12345"))
    two.append(uuid4(), batch(b"1234"))
    one.remove(one.first())
    two.append(uuid4(), batch(b"123456"))
    one.close()
    two.close()


def test_what_was_appended_is_there_after_sigkill(path):
    """Another process appends until it is killed: every batch that it reported is there, and at most one more."""
    program = (
        "from pathlib import Path; from uuid import uuid4\n"
        "from citybeat.ingest.judging.message import Message; from citybeat.ingest.transport.spool import Spool\n"
        f"spool = Spool(Path({str(path)!r}), max_bytes=10**9)\n"
        "for i in range(10**6):\n"
        "    spool.append(uuid4(), [Message('t', b'%d' % i * 100, i, False, 1, 1, 1)])\n"
        "    print(i, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    reported = [int(process.stdout.readline()) for _ in range(50)]
    process.kill()
    reported += [int(line) for line in process.stdout.read().split()]
    process.wait()
    process.stdout.close()
    spool = Spool(path, max_bytes=10**9)
    assert reported[-1] + 1 <= len(spool) <= reported[-1] + 2
    assert spool.first().messages[0].payload == b"0" * 100
    spool.close()


def test_another_process_cannot_have_it_too(path):
    spool = Spool(path, max_bytes=1000)
    spool.append(uuid4(), batch(b"x"))
    with pytest.raises(SpoolInUseError, match="CITYBEAT_SPOOL_DIR"):
        Spool(path, max_bytes=1000)
    spool.close()
    Spool(path, max_bytes=1000).close()


def test_a_damaged_row_has_the_file_set_aside(path):
    spool = Spool(path, max_bytes=1000)
    spool.append(uuid4(), batch(b"good"))
    spool.append(uuid4(), batch(b"bad"))
    spool.close()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE batches SET body = zeroblob(length(body)) WHERE number = 2")
    file.close()
    spool = Spool(path, max_bytes=1000)
    spool.remove(spool.first())
    with pytest.raises(SpoolDamagedError, match="batch 2"):
        spool.first()
    assert len(spool.damaged) == 1
    assert DAMAGED in spool.damaged[0].name
    assert spool.first() is None
    spool.append(uuid4(), batch(b"next"))
    assert contents(spool.first().messages)[0][1] == b"next"
    spool.close()
    assert leftovers(path.parent) == [path]


@pytest.mark.parametrize("damage", ["torn", "overwritten", "no database"])
def test_a_damaged_file_is_set_aside_when_it_is_opened(path, damage):
    spool = Spool(path, max_bytes=10**7)
    for _ in range(50):
        spool.append(uuid4(), batch(b"x" * 5000))
    spool.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        if damage == "torn":
            file.truncate(size // 2 + 100)
        elif damage == "overwritten":
            file.seek(4096)
            file.write(b"\xaa" * (size - 4096))
        else:
            file.write(b"something else altogether")
    spool = Spool(path, max_bytes=10**7)
    assert len(spool) == 0
    assert len(spool.damaged) == 1
    assert spool.damaged[0].exists()
    spool.append(uuid4(), batch(b"next"))
    assert contents(spool.first().messages)[0][1] == b"next"
    spool.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system of a few pages")
def test_a_full_disk_is_a_full_spool(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=False, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        spool = Spool(place / "gw.spool", max_bytes=10**9)
        appended = 0
        with pytest.raises(SpoolFullError, match="full"):
            while True:
                spool.append(uuid4(), batch(b"x" * 10_000))
                appended += 1
        assert appended == len(spool) > 0
        for left in range(appended - 1, 0, -1):
            first = spool.first()
            spool.remove(first)
            assert (len(spool), spool.first().number) == (left, first.number + 1)
        assert spool.damaged == []
        spool.close()
        spool = Spool(place / "gw.spool", max_bytes=10**9)
        assert 1 <= len(spool) <= appended  # as many as there was no room to forget
        spool.close()
    finally:
        subprocess.run(["umount", place], check=True)
