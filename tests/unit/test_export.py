"""Exports without a database: packed rows, slices of time, times as text, the form asked for, files with an end or without."""

import asyncio
import doctest
import itertools
import struct
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import citybeat.api.files.tables
import citybeat.api.routes.export
import citybeat.storage.db.packed_rows
import citybeat.storage.reads.export
from citybeat.api.files.download import BrokenDownloadError, Download, Downloads
from citybeat.api.files.tables import FLAGS, encoder, written
from citybeat.api.http.problems import Problem
from citybeat.api.routes.export import negotiated
from citybeat.devices.catalogue import Kind
from citybeat.devices.flags import Flag
from citybeat.storage.db.packed_rows import PackedRows
from citybeat.storage.db.pgcopy import CopyFormatError
from citybeat.storage.reads.export import Block, Exported, ExportedDevice, ExportedMetric, slices
from citybeat.storage.rollups.levels import Level

T0 = 1_767_225_600_000_000
SELECTION = Exported(
    ids=np.array([3, 7], np.int32),
    device=np.array([0, 0], np.int32),
    metric=np.array([0, 1], np.int32),
    devices=[ExportedDevice(id='a "b", c', name="A", domain="environment", district="north", latitude=1.5, longitude=None)],
    metrics=[
        ExportedMetric(name="temperature", unit="Cel", kind=Kind.GAUGE),
        ExportedMetric(name="windDirection", unit="deg", kind=Kind.DIRECTION),
    ],
    fastest=60.0,
)
BLOCK = Block(
    series=np.array([0, 0, 1]),
    columns={
        "time": np.array([T0, T0 + 1, T0 - 1]),
        "value": np.array([1.5, -0.1, 1e-300]),
        "flags": np.array([0, 9, 256], np.int16),
    },
)


def test_examples():
    for module in (
        citybeat.api.routes.export,
        citybeat.api.files.tables,
        citybeat.storage.reads.export,
        citybeat.storage.db.packed_rows,
    ):
        assert doctest.testmod(module).failed == 0


def array(*values, form=">h", kind=21):
    body = b"".join(struct.pack(">i", struct.calcsize(form)) + struct.pack(form, value) for value in values)
    head = struct.pack(">iiIii", 1, 0, kind, len(values), 1)
    return struct.pack(">i", len(head + body)) + head + body


def row(*fields, key=5):
    return struct.pack(">hii", 1 + len(fields), 4, key) + b"".join(fields)


HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)


def test_packed_rows():
    rows = PackedRows({"time": "timestamptz", "flags": "int2"})
    times = array(0, -1, form=">q", kind=1184)
    assert rows.read(HEADER + row(times, array(1, 2)))[0] == 5
    key, columns = rows.read(row(times, array(1, 2), key=-6))
    assert (key, columns["time"].tolist(), columns["flags"].tolist()) == (-6, [0, -1], [1, 2])
    assert columns["time"].dtype == np.int64
    assert rows.read(b"\xff\xff") is None
    keys, columns = citybeat.storage.db.packed_rows.joined([(1, columns), (2, columns)], "time")
    assert keys.tolist() == [1, 1, 2, 2]
    assert columns["time"].tolist() == [946_684_800_000_000, 946_684_799_999_999] * 2


@pytest.mark.parametrize(
    "message",
    [
        b"",
        row(array(1)),
        HEADER[:-1] + b"\1" + row(array(1)),
        HEADER + row(array(1))[:-1],
        HEADER + row(array(1)) + b"\0",
        HEADER + row(array(1), array(1)),
        HEADER + row(),
        HEADER + row(array(1, form=">i", kind=23)),
        HEADER + row(array(1).replace(struct.pack(">i", 0), struct.pack(">i", 1), 1)),  # has NULLs
        HEADER + row(struct.pack(">i", -1)),  # is NULL
        HEADER + row(struct.pack(">iiIi", 12, 0, 0, 21)),  # is empty
    ],
)
def test_what_is_no_packed_row(message):
    with pytest.raises(CopyFormatError):
        PackedRows({"flags": "int2"}).read(message)


def test_arrays_of_different_lengths_are_no_row():
    with pytest.raises(CopyFormatError):
        PackedRows({"a": "int2", "b": "int2"}).read(HEADER + row(array(1), array(1, 2)))


HOURS = st.integers(0, 24 * 40)


@given(st.lists(st.tuples(HOURS, HOURS).filter(lambda pair: pair[0] < pair[1])), HOURS, HOURS)
def test_slices_cover_what_chunks_cover_and_nothing_twice(chunks, start, stop):
    at = lambda hour: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour)  # noqa: E731
    ranges = [(at(a), at(b)) for a, b in sorted(chunks) if a < stop and b > start]
    found = slices(ranges, at(start), at(stop)) if start < stop else []
    wanted = {hour for a, b in chunks for hour in range(a, b) if start <= hour < stop}
    covered = [hour for hour in range(24 * 40) for a, b in found if a <= at(hour) < b]
    assert sorted(wanted) == covered
    assert all(a < b and b - a <= timedelta(days=7) for a, b in found)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(found))


@given(st.lists(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)), min_size=1))  # noqa: DTZ001
def test_times_are_written_as_python_writes_them(naive):
    epoch = datetime(1970, 1, 1)  # noqa: DTZ001
    us = np.array([(time - epoch) // timedelta(microseconds=1) for time in naive])
    assert [text.tobytes().decode() for text in written(us)] == [time.isoformat(timespec="microseconds") + "Z" for time in naive]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "csv"),
        ("", "csv"),
        ("*/*", "csv"),
        ("text/html, */*;q=0.1", "csv"),
        ("application/vnd.apache.arrow.stream", "arrow"),
        ("Application/VND.apache.parquet; q=0.3, text/csv;q=0.2", "parquet"),
        ("application/vnd.apache.parquet, */*", "parquet"),
        ("text/csv;q=0, */*;q=0.5", "csv"),
        ("application/json", None),
        ("text/csv;q=0", None),
        ("text/csv;charset=utf-8", "csv"),
    ],
)
def test_the_form_that_is_asked_for(accept, form):
    assert negotiated(accept) == form


def pieces(form, *, level=Level.RAW, blocks=(BLOCK,), selection=SELECTION):
    made = encoder(form, selection, level, query={"from": "then"}, version="1.2.3")
    return made.begin(), b"".join(made.block(block) for block in blocks), made.end()


def test_arrow_and_parquet_say_what_they_hold():
    stream, parquet = (b"".join(pieces(form)) for form in ("arrow", "parquet"))
    for table in (pa.ipc.open_stream(stream).read_all(), pa.parquet.read_table(pa.BufferReader(parquet))):
        table.validate(full=True)
        assert table["time"].cast(pa.int64()).to_pylist() == [T0, T0 + 1, T0 - 1]
        assert table["device"].to_pylist() == ['a "b", c'] * 3
        assert table["metric"].to_pylist() == ["temperature", "temperature", "windDirection"]
        assert table["value"].to_pylist() == [1.5, -0.1, 1e-300]
        assert table["flags"].to_pylist() == [0, 9, 256]
        schema = table.schema
        assert [str(field.type) for field in schema] == [
            "timestamp[us, tz=UTC]",
            "dictionary<values=string, indices=int32, ordered=0>",
            "dictionary<values=string, indices=int32, ordered=0>",
            "double",
            "int16",
        ]
        assert schema.metadata[b"citybeat.version"] == b"1.2.3"
        assert schema.metadata[b"citybeat.query"] == b'{"from":"then"}'
        assert b"range" in schema.metadata[b"citybeat.flags"]
        told = {name.decode(): value.decode() for name, value in schema.field("device").metadata.items()}
        assert {name: told[name] for name in ("id", "name", "domain", "district", "latitude")} == {
            "id": 'a "b", c',
            "name": "A",
            "domain": "environment",
            "district": "north",
            "latitude": "1.5",
        }
        assert "longitude" not in told
        assert b'"windDirection":{"unit":"deg","kind":"direction"}' in schema.field("metric").metadata[b"metrics"]
        assert b"unit" not in (schema.field("value").metadata or {})


def test_a_single_metric_is_told_at_the_value():
    one = Exported(
        ids=SELECTION.ids[:1],
        device=SELECTION.device[:1],
        metric=SELECTION.metric[:1],
        devices=SELECTION.devices,
        metrics=SELECTION.metrics[:1],
        fastest=60.0,
    )
    for level, name in ((Level.RAW, "value"), (Level.MINUTES, "mean"), (Level.QUARTERS, "stddev")):
        stream = b"".join(pieces("arrow", level=level, blocks=(), selection=one))
        field = pa.ipc.open_stream(stream).schema.field(name)
        assert (field.metadata[b"unit"], field.metadata[b"kind"]) == (b"Cel", b"gauge")


def test_csv_quotes_what_has_to_be_quoted():
    text = b"".join(pieces("csv")).decode()
    assert text.splitlines()[:2] == [
        "time,device,metric,value,flags",
        '"2026-01-01T00:00:00.000000Z","a ""b"", c","temperature",1.5,0',
    ]


def test_without_its_end_a_file_is_visibly_broken():
    begin, body, end = pieces("parquet")
    with pytest.raises(pa.ArrowInvalid):
        pa.parquet.read_table(pa.BufferReader(begin + body))
    begin, body, end = pieces("arrow")
    assert end == b"\xff\xff\xff\xff\0\0\0\0"
    assert not (begin + body).endswith(end)


def test_every_flag_is_explained():
    assert {int(bit) for bit in FLAGS} == {int(flag) for flag in Flag}


class Client:
    """The other side of a download, without a network."""

    def __init__(self):
        self.sent = []
        self.gone = asyncio.Event()
        self.slow = None  # number of messages after which it takes no more

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if self.slow is not None and len(self.sent) >= self.slow:
            await asyncio.Event().wait()
        self.sent.append(message)


def play(client, source, downloads=None, **options):
    """The end of a download, and whether its place was given back."""
    downloads = downloads or Downloads(1)

    async def run():
        made = encoder("arrow", SELECTION, Level.RAW, query={}, version="1")
        try:
            async with asyncio.timeout(20):
                await Download(downloads, source, made, media_type="x/y", headers={}, **options)({}, client.receive, client.send)
        finally:
            assert asyncio.all_tasks() == {asyncio.current_task()}

    try:
        asyncio.run(run())
    finally:
        downloads.enter()
        downloads.leave()
    return client.sent


async def whole(sink):
    await sink(BLOCK)
    await sink(BLOCK)


def test_a_download():
    sent = play(Client(), whole)
    assert sent[0]["type"] == "http.response.start"
    assert "content-length" not in httpx.Headers(sent[0]["headers"])
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert pa.ipc.open_stream(b"".join(message["body"] for message in sent[1:])).read_all().num_rows == 6


def test_an_error_before_the_first_byte_is_an_error_like_any_other():
    async def broken(_sink):
        raise LookupError

    client = Client()
    with pytest.raises(LookupError):
        play(client, broken)
    assert client.sent == []


def test_an_error_later_leaves_the_answer_without_its_end():
    async def broken(sink):
        await whole(sink)
        raise LookupError("in the middle")

    client = Client()
    with pytest.raises(BrokenDownloadError, match="in the middle"):
        play(client, broken)
    assert all(message.get("more_body", True) for message in client.sent)
    assert not client.sent[-1]["body"].endswith(b"\xff\xff\xff\xff\0\0\0\0")


def endless(ended):
    async def source(sink):
        try:
            while True:
                await sink(BLOCK)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    return source


def test_a_client_that_goes_away_ends_the_source():
    ended, client = [], Client()
    client.slow = 5

    async def gone_when_slow(sink):
        client.gone.set()
        await endless(ended)(sink)

    play(client, gone_when_slow)
    assert ended == [True]
    assert all(message.get("more_body", True) for message in client.sent)


@pytest.mark.parametrize("limit", [{"stall": 0.05}, {"duration": 0.05}])
def test_a_client_that_takes_nothing_ends_the_source(limit):
    ended, client = [], Client()
    client.slow = 3
    with pytest.raises(BrokenDownloadError, match="TimeoutError"):
        play(client, endless(ended), **limit)
    assert ended == [True]


def test_no_more_downloads_than_there_are_places():
    downloads = Downloads(2)
    downloads.enter()
    downloads.enter()
    client = Client()
    with pytest.raises(Problem) as refused:
        Downloads.enter(downloads)
    assert refused.value.status == 503
    assert refused.value.body["max_exports"] == 2
    assert int(refused.value.headers["Retry-After"]) > 0
    downloads.leave()
    assert play(client, whole, downloads)
