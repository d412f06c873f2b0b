"""Files of readings, CSV and Parquet, as payloads of columns. The files of an export can be posted as they are.

Files have one reading per line: `device`, `metric`, `time` (or `ts`), `value`; `flags` is accepted and ignored, since readings are
validated again when they are stored. A cell that is not a number, or not a time, is passed on as it was written: the decoder
refuses that reading and says why, and its position gives its line. A file that is wrong itself is refused as a whole.

Invariant: no I/O. Columns are converted as columns; only irregular cells are handled one by one.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from citybeat.devices.wire import reports
from citybeat.devices.wire.decoded import MAX_MS, MIN_MS

#: Most readings of one file: their payloads take some 100 MB while they wait to be stored.
MAX_ROWS: Final = 1_000_000
#: Readings of one payload: some 600 kB, and a few hundredths of a second of a transaction.
PART_ROWS: Final = 10_000
#: Most bytes of the unpacked columns of a Parquet file, by its own metadata.
_MAX_UNPACKED: Final = 1024 * 1024 * 1024
#: Most lines that an error names.
_LINES: Final = 20
_TIMES: Final = ("time", "ts")
_WANTED: Final = ("device", "metric", *_TIMES, "value")
_IGNORED: Final = frozenset({"flags"})
_NOTHING: Final = pa.array(["", "null", "nan", "na"])
_NUMBER: Final = r"^-?\d+(\.\d+)?([eE][+-]?\d+)?$"
_MILLISECONDS: Final = r"^-?\d{1,15}$"
_RFC3339: Final = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)$"
_US: Final = pa.timestamp("us", tz="UTC")


class FileError(Exception):
    """The file cannot be read; the message says why, and what to do."""


class TooManyRowsError(FileError):
    """The file has more readings, or bytes, than one file may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of the readings of a file."""

    first: int  # position of its first reading in the file
    payload: bytes  # columns, as `devices.wire.reports` reads them


def csv_parts(body: bytes, *, max_bytes: int) -> list[Part]:
    """A CSV file with a header as payloads of at most `max_bytes`.

    Raises
    ------
    FileError
    """
    try:
        head = next(csv.reader([body.split(b"\n", 1)[0].decode("utf-8-sig")]), [])
    except (UnicodeDecodeError, csv.Error) as exc:
        raise FileError(f"the first line is no header: {exc}") from None
    names = [name.strip() for name in head]
    _check_columns(names)
    broken: list[int] = []

    def skip(row: Any) -> str:
        broken.append(row.number or 0)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(body.rstrip(b"\r\n")),
            read_options=pyarrow.csv.ReadOptions(use_threads=False, column_names=names, skip_rows=1),
            parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=skip, ignore_empty_lines=False, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=[name for name in names if name in _WANTED],
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as exc:
        if "Empty CSV" in str(exc):
            raise FileError("there is no line after the header") from None
        raise FileError(f"not CSV in UTF-8: {str(exc)[:200]}") from None
    if broken:
        named = ", ".join(map(str, broken[:_LINES])) + (f" and {len(broken) - _LINES} more" if len(broken) > _LINES else "")
        raise FileError(f"{len(broken)} lines do not have the header's {len(names)} columns: {named}")
    return _parts(iter(table.to_batches(max_chunksize=PART_ROWS)), table.num_rows, max_bytes)


def parquet_parts(body: bytes, *, max_bytes: int) -> list[Part]:
    """A Parquet file as payloads of at most `max_bytes`.

    Raises
    ------
    FileError
    """
    try:
        schema = pyarrow.parquet.read_schema(pa.BufferReader(body))
        _check_columns(schema.names)
        for name in schema.names:
            _check_type(name, schema.field(name).type)
        # As dictionaries, so that a long name is held once however often it is repeated.
        words = [name for name in ("device", "metric") if name in schema.names]
        file = pyarrow.parquet.ParquetFile(pa.BufferReader(body), read_dictionary=words)
        metadata = file.metadata
        unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        if unpacked > _MAX_UNPACKED:
            raise TooManyRowsError(f"unpacked it has {unpacked} bytes, and may have {_MAX_UNPACKED}; send several smaller files")
        if metadata.num_rows > MAX_ROWS:
            raise _too_many(metadata.num_rows)
        columns = [name for name in schema.names if name in _WANTED]
        return _parts(file.iter_batches(batch_size=PART_ROWS, columns=columns), metadata.num_rows, max_bytes)
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise FileError(f"not a Parquet file: {str(exc)[:200]}") from None


def _check_columns(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise FileError("two columns have the same name")
    unknown = [name for name in names if name not in _WANTED and name not in _IGNORED]
    if unknown:
        raise FileError(
            f"no column is called {', '.join(map(repr, unknown[:_LINES]))}; there is device, metric, time (or ts), value, flags"
        )
    missing = [name for name in ("metric", "value") if name not in names]
    if missing:
        raise FileError(f"there is no column {' and no column '.join(missing)}; found {', '.join(names) or 'none'}")
    if all(name in names for name in _TIMES):
        raise FileError("there are two columns of times, time and ts")


def _check_type(name: str, kind: pa.DataType) -> None:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if name in ("device", "metric"):
        fits, wanted = text, "text"
    elif name in _TIMES:
        if pa.types.is_timestamp(kind) and kind.tz is None:
            raise FileError(f"column {name} has times without a zone; make them UTC")
        fits = text or pa.types.is_timestamp(kind) or pa.types.is_int64(kind)
        wanted = "timestamps with a zone, integers of milliseconds, or RFC 3339 text"
    elif name == "value":
        fits = text or pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        wanted = "numbers"
    else:
        return
    if not fits:
        raise FileError(f"column {name} is of type {kind}, and should have {wanted}")


def _too_many(rows: int) -> TooManyRowsError:
    return TooManyRowsError(f"it has {rows} readings, and may have {MAX_ROWS}; send several smaller files")


def _parts(batches: Iterator[pa.RecordBatch], rows: int, max_bytes: int) -> list[Part]:
    if rows > MAX_ROWS:
        raise _too_many(rows)
    found: list[Part] = []
    first = 0
    for batch in batches:
        found += _encoded(batch, first, max_bytes)
        first += batch.num_rows
    if not found:
        raise FileError("there is no reading in it")
    return found


def _encoded(batch: pa.RecordBatch, first: int, max_bytes: int) -> list[Part]:
    if batch.num_rows == 0:
        return []
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    body: dict[str, Any] = {"metric": _names(columns["metric"]), "value": _values(columns["value"])}
    if "device" in columns:
        body["device"] = _names(columns["device"])
    for name in _TIMES:
        if name in columns:
            body["ts"] = _times(columns[name])
    payload = reports.encode(body)
    if len(payload) <= max_bytes:
        return [Part(first=first, payload=payload)]
    if batch.num_rows == 1:
        raise FileError(f"reading {first + 1} takes {len(payload)} bytes")
    middle = batch.num_rows // 2
    return _encoded(batch.slice(0, middle), first, max_bytes) + _encoded(batch.slice(middle), first + middle, max_bytes)


def _names(column: pa.Array) -> list[str | None]:
    names: list[str | None] = column.to_pylist()
    return names


def _text(column: pa.Array) -> pa.Array | None:
    """A column of text, trimmed; None: the column is not text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return pc.utf8_trim_whitespace(column.cast(pa.string())) if not _is_typed(column.type) else None


def _is_typed(kind: pa.DataType) -> bool:
    return not (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _mask(column: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(column.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)


def _values(column: pa.Array) -> Any:
    """Numbers, NaN for empty cells; if some cells are irregular, a list with those as they were written."""
    text = _text(column)
    if text is None:
        typed = np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
        # JSON would turn an infinity into null, which means missing.
        return [str(each) if math.isinf(each) else each for each in typed.tolist()] if np.isinf(typed).any() else typed
    empty = _mask(pc.is_in(pc.utf8_lower(text), value_set=_NOTHING)) | ~_mask(text.is_valid())
    plain = _mask(pc.match_substring_regex(text, _NUMBER))
    numbers = np.full(len(text), np.nan)
    if plain.any():
        try:
            numbers[plain] = pc.cast(text.filter(pa.array(plain)), pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:  # Arrow refuses numbers beyond float64
            numbers[plain] = [float(number) for number in text.filter(pa.array(plain)).to_pylist()]
    odd = np.flatnonzero(~plain & ~empty | np.isinf(numbers))
    if not len(odd):
        return numbers
    mixed: list[Any] = [None if number != number else number for number in numbers.tolist()]  # noqa: PLR0124 - true for NaN alone
    for row, written in zip(odd.tolist(), text.take(pa.array(odd)).to_pylist(), strict=True):
        mixed[row] = written
    return mixed


def _times(column: pa.Array) -> Any:
    """Whole milliseconds; else a list with those, RFC 3339 for finer times, and irregular cells as they were written."""
    text = _text(column)
    if text is None and pa.types.is_timestamp(column.type):
        return _instants(pc.cast(column, _US, safe=False))
    if text is None:
        return column.to_numpy(zero_copy_only=False) if column.null_count == 0 else column.to_pylist()
    number, moment = _mask(pc.match_substring_regex(text, _MILLISECONDS)), _mask(pc.match_substring_regex(text, _RFC3339))
    if number.all():
        return pc.cast(text, pa.int64()).to_numpy(zero_copy_only=False)
    try:
        if moment.all():
            return _instants(pc.cast(text, _US))
        instants = _instants(pc.cast(text.filter(pa.array(moment)), _US))
    except pa.ArrowInvalid:  # a date that does not exist: the decoder says which
        instants = text.filter(pa.array(moment)).to_pylist()
    mixed = text.to_pylist()
    for rows, found in (
        (number, pc.cast(text.filter(pa.array(number)), pa.int64()).to_pylist()),
        (moment, instants if isinstance(instants, list) else instants.tolist()),
    ):
        for row, each in zip(np.flatnonzero(rows).tolist(), found, strict=True):
            mixed[row] = each
    return mixed


def _instants(column: pa.Array) -> Any:
    """Milliseconds, or the wire format's text for finer times; times beyond all dates are left for the decoder to refuse."""
    us = column.cast(pa.int64())
    if not us.null_count:
        plain = us.to_numpy(zero_copy_only=False)
        if not (plain % 1000).any():
            return plain // 1000
    return [None if at is None else _instant(at) for at in us.to_pylist()]


def _instant(us: int) -> Any:
    if us % 1000 == 0 or not MIN_MS <= us // 1000 <= MAX_MS:
        return us // 1000
    return reports.encode_report(None, us, {})["ts"]


#: By media type.
READERS: Final[Mapping[str, Any]] = {"text/csv": csv_parts, "application/vnd.apache.parquet": parquet_parts}
