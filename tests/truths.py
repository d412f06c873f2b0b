"""Truth files made by hand, by the contract of docs/faults.md: what `simulate run --truth` writes, without a run."""

import json

import pyarrow as pa
import pyarrow.parquet

#: Columns of text, of times, and of whole numbers; what a row does not say is null.
WORDS = ("source", "boot", "device", "metric", "fault", "delivery", "outcome", "reason")
TIMES = ("time", "claimed", "sent_at")
NUMBERS = ("seq", "index", "event", "delivery_event")


def write(path, rows, *, sources, **about):
    """`rows`: a dictionary each, times in us; `sources`: last number by (source, boot)."""
    said = {}
    for (source, boot), last in sources.items():
        entry = said.setdefault(source, {"boots": [], "last_seq": []})
        entry["boots"].append(boot)
        entry["last_seq"].append(last)
    metadata = {"version": 1, "seed": 7, "scenario": "by hand", "sources": said} | about

    def column(name, kind):
        return pa.array([row.get(name) for row in rows], pa.int64() if pa.types.is_timestamp(kind) else kind).cast(kind)

    columns = {
        **{name: column(name, pa.string()).dictionary_encode() for name in WORDS},
        **{name: column(name, pa.timestamp("us", "UTC")) for name in TIMES},
        **{name: column(name, pa.int64() if name == "seq" else pa.int32()) for name in NUMBERS},
        **{name: column(name, pa.float64()) for name in ("value", "true_value")},
        "acknowledged": column("acknowledged", pa.bool_()),
    }
    table = pa.table(columns)
    with pyarrow.parquet.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table, row_group_size=50)
        writer.add_key_value_metadata({"citybeat": json.dumps(metadata)})
    return path
