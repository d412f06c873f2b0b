"""Our COPY BINARY against PostgreSQL's own, and psycopg's."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citybeat.devices.batch import FOREVER, NEVER
from citybeat.storage.db.packed import Array
from citybeat.storage.db.pgcopy import CopyFormatError, RowFormat

FORMAT = RowFormat(i2="int2", i4="int4", i8="int8", f8="float8", at="timestamptz")


def encoded(form, **columns):
    return b"".join(form.blocks(**columns))


TYPES = ["int2", "int4", "int8", "float8", "timestamptz"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

rows = st.lists(
    st.tuples(
        st.integers(-(2**15), 2**15 - 1),
        st.integers(-(2**31), 2**31 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    ),
    max_size=30,
)


@pytest.fixture
def table(connection):
    connection.execute(
        "CREATE TABLE t (i2 int2, i4 int4, i8 int8, f8 float8, at timestamptz, ord int GENERATED ALWAYS AS IDENTITY)"
    )
    return connection


def columns(given_rows):
    return {
        name: np.array([row[i] for row in given_rows], np.float64 if name == "f8" else np.int64)
        for i, name in enumerate(FORMAT.columns)
    }


def copy_out(connection):
    with connection.cursor().copy("COPY (SELECT i2, i4, i8, f8, at FROM t ORDER BY ord) TO STDOUT (FORMAT BINARY)") as copy:
        return b"".join(bytes(part) for part in copy)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows)
def test_bytes_are_those_of_psycopg_and_of_the_server(table, given_rows):
    ours = encoded(FORMAT, **columns(given_rows))
    table.execute("TRUNCATE t")
    with table.cursor().copy("COPY t (i2, i4, i8, f8, at) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(TYPES)
        for row in given_rows:
            copy.write_row((*row[:4], EPOCH + timedelta(microseconds=row[4])))
    theirs = copy_out(table)
    if not any(row[3] != row[3] for row in given_rows):  # a NaN's payload bits are the writer's choice
        assert theirs == ours
    table.execute("TRUNCATE t")
    with table.cursor().copy("COPY t (i2, i4, i8, f8, at) FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(ours)
    decoded = FORMAT.decode(copy_out(table))
    for name, column in columns(given_rows).items():
        assert repr(decoded[name].tolist()) == repr(column.tolist())


def test_infinity_of_time(table):
    fmt = RowFormat(at="timestamptz")
    with table.cursor().copy("COPY t (at) FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(encoded(fmt, at=np.array([FOREVER, NEVER, 0])))
    assert [row[0] for row in table.execute("SELECT at::text FROM t ORDER BY ord")] == [
        "infinity",
        "-infinity",
        "1970-01-01 00:00:00+00",
    ]
    with table.cursor().copy("COPY (SELECT at FROM t ORDER BY ord) TO STDOUT (FORMAT BINARY)") as copy:
        assert fmt.decode(b"".join(bytes(p) for p in copy))["at"].tolist() == [FOREVER, NEVER, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PGCOPY\n\xff\r\n\0",
        encoded(FORMAT, **columns([(1, 2, 3, 4.0, 5)]))[:-1],
        encoded(FORMAT, **columns([(1, 2, 3, 4.0, 5)]))[:-3] + b"\xff\xff",
        encoded(RowFormat(a="int8", b="int8", c="int8", d="int8", e="int4"), a=[1], b=[1], c=[1], d=[1], e=[1]),
    ],
)
def test_other_bytes_are_refused(data):
    with pytest.raises(CopyFormatError):
        FORMAT.decode(data)


def test_null_is_refused(table):
    table.execute("INSERT INTO t (i2) VALUES (1)")
    with table.cursor().copy("COPY (SELECT i2, i4 FROM t) TO STDOUT (FORMAT BINARY)") as copy:
        data = b"".join(bytes(part) for part in copy)
    with pytest.raises(CopyFormatError):
        RowFormat(i2="int2", i4="int4").decode(data)


def test_columns_must_match():
    with pytest.raises(ValueError, match="columns"):
        encoded(FORMAT, i2=[1])
    with pytest.raises(ValueError, match="lengths"):
        encoded(RowFormat(a="int2", b="int2"), a=[1], b=[1, 2])


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        (np.array([-(2**31), 0, 2**31 - 1], np.int32), "int4"),
        (np.array([-(2**63), 0, 2**63 - 1], np.int64), "int8"),
        (np.array([-np.inf, -0.0, 5e-324, 1.5, np.inf, np.nan]), "float8"),
        (np.empty(0, np.int32), "int4"),
    ],
)
def test_an_array_is_a_parameter(connection, values, type_):
    row = connection.execute("SELECT %s, pg_typeof(%s)::text", [Array(values), Array(values)]).fetchone()
    assert row[1] == {"int4": "integer[]", "int8": "bigint[]", "float8": "double precision[]"}[type_]
    assert str(row[0]) == str(values.tolist())
