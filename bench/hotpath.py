"""Hot path: from payload bytes to encoded rows, in one thread, against bare orjson (cbor2) and arrays over the same bytes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import cbor2
import numpy as np
import orjson

from bench import table, workload
from citybeat.devices.aggregate import downsample
from citybeat.devices.device import Device
from citybeat.devices.wire import reports as wire
from citybeat.devices.wire import senml
from citybeat.devices.wire.decoded import Decoded
from citybeat.ingest.judging.decode import decode
from citybeat.ingest.judging.history import History
from citybeat.ingest.judging.judge import judge
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.writing.memory import keep_freed_memory, spare_the_collector
from citybeat.storage.batches.rows import encode_readings
from citybeat.storage.rollups import minutes

#: Readings in one batch, as ingest makes them under load.
BATCH = 50_000


def measure(rounds: int = 7) -> list[dict[str, Any]]:
    """Measure each kind of message: a row each, in readings a second."""
    spare_the_collector()  # as ingest does; the limit profits as well
    keep_freed_memory()
    listed = workload.devices(2_000)
    registry = workload.registry(listed)
    rows = []
    for name, batch, limit, what in _cases(listed):
        work, least = partial(table.timed, partial(_ours, batch, registry)), partial(table.timed, partial(limit, batch))
        rows.append(table.row(f"hot path, {name}", table.pairs(work, least, rounds), what, count=BATCH))
    return rows


def _cases(listed: list[Device]) -> Iterator[tuple[str, list[Message], Callable[[list[Message]], None], str]]:
    """Yield the kinds of messages: name, messages, the limit and its name."""
    bare = "orjson, and one array a column"
    for reports in (100, 10, 1):
        batch = workload.messages(listed, count=BATCH // reports, reports=reports)
        yield f"messages of {reports} reports of one value", batch, _limit, bare
    batch = workload.messages(listed, count=BATCH // 100, reports=100)
    yield "SenML packs of 100, base fields", _packs(batch, "senml", _with_base_fields), _limit_senml, bare
    yield "SenML packs of 100, resolved records", _packs(batch, "senml", _resolved), _limit_senml, bare
    binary = _packs(batch, "senml-cbor", partial(_with_base_fields, binary=True))
    yield "SenML packs of 100 in CBOR, base fields", binary, _limit_senml_cbor, "cbor2, and one array a column"


def _packs(batch: list[Message], channel: str, encode: Callable[[Decoded], bytes]) -> list[Message]:
    """Encode the same readings as SenML."""
    none = np.zeros(1, np.int64)
    return [
        replace(message, topic=f"city/v1/{workload.SOURCE}/{channel}", payload=encode(wire.decode([message.payload], ["?"], none)))
        for message in batch
    ]


def _with_base_fields(told: Decoded, *, binary: bool = False) -> bytes:
    return senml.encode(told.device, told.metric, told.time, told.value, binary=binary)


def _resolved(told: Decoded) -> bytes:
    columns = zip(told.device, told.metric, (told.time // 1_000_000).tolist(), told.value.tolist(), strict=True)
    return orjson.dumps([{"n": f"{device}:{metric}", "t": t, "v": v} for device, metric, t, v in columns])


def _ours(batch: list[Message], registry: Any) -> None:
    read = decode(batch, max_bytes=4 * 1024 * 1024)
    prepared = judge(read, np.ones(len(batch), np.int32), registry, Limits(), History.empty(len(registry.owner)))
    rows = prepared.judged.batch
    for blocks in (encode_readings(rows), minutes.encode_partials(downsample(rows, registry.kind))):
        for _ in blocks:
            pass


def _limit(batch: list[Message]) -> None:
    """Do the least that any reader of this format does: parse, and put times and values into arrays."""
    times, values = [], []
    for message in batch:
        for report in orjson.loads(message.payload)["readings"]:
            times.append(report["ts"])
            values.extend(report["values"].values())
    np.array(times, np.int64)
    np.array(values, np.float64)


def _limit_senml(batch: list[Message]) -> None:
    """Do the same for packs, without resolving base fields."""
    times, values = [], []
    for message in batch:
        for record in orjson.loads(message.payload):
            times.append(record.get("t", 0))
            values.append(record["v"])
    np.array(times, np.float64)
    np.array(values, np.float64)


def _limit_senml_cbor(batch: list[Message]) -> None:
    """Do the same for packs in CBOR."""
    times, values = [], []
    for message in batch:
        for record in cbor2.loads(message.payload):
            times.append(record.get(6, 0))
            values.append(record[2])
    np.array(times, np.float64)
    np.array(values, np.float64)
