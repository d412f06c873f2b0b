"""Rows of recordings: every reason to reject one, exact scales, and the order of the file."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.simulator.errors import RecordingError
from citybeat.simulator.replay.maps import ReplayMap, load_map
from citybeat.simulator.replay.recording import Blank, Reject, Rejected, Report, Row, read, scaled

DAY = 86_400_000_000

MAP = """\
file: {delimiter: ";"}
time: {columns: [t], format: unix}
missing: ["?"]
devices:
  - id: a
    source: gw
    domain: environment
    where: {kind: "A"}
    columns:
      x: {metric: temperature, sentinels: [-200]}
      y: {metric: relativeHumidity, scale: 0.01, sentinels: [-200], missing: ["Null"]}
  - id: b
    source: gw
    domain: environment
    where: {kind: "B"}
    columns:
      x: {metric: pm25}
"""


def mapped(**changes: str) -> ReplayMap:
    text = MAP
    for old, new in changes.items():
        text = text.replace({"file": 'file: {delimiter: ";"}', "time": "time: {columns: [t], format: unix}"}[old], new)
    return load_map(text, origin="map.yaml")


def found(*lines: str | bytes, using: ReplayMap | None = None, header: str = "t;kind;x;y") -> list[Row | Blank | Rejected]:
    data = [header.encode() + b"\r\n", *(line.encode() + b"\r\n" if isinstance(line, str) else line for line in lines)]
    return list(read(data, using or mapped(), file="f.csv"))


def test_a_row_becomes_the_report_of_its_device():
    assert found("10;A;21.5;57.2", "11;B;7;") == [
        Row(
            line=2,
            time=10_000_000,
            oddity=None,
            reports=(Report(device="a", source="gw", values={"temperature": 21.5, "relativeHumidity": 0.572}),),
            missing=0,
            sentinels=0,
            omitted=0,
        ),
        Row(
            line=3,
            time=11_000_000,
            oddity=None,
            reports=(Report(device="b", source="gw", values={"pm25": 7.0}),),
            missing=0,
            sentinels=0,
            omitted=0,
        ),
    ]


def test_missing_cells_are_null_and_counted():
    (row,) = found("10;A;?; Null ")
    assert row.reports[0].values == {"temperature": None, "relativeHumidity": None}
    assert row.missing == 2
    (row,) = found("10;A;;")
    assert row.missing == 2


def test_blank_cells_can_be_left_out():
    using = mapped(file='file: {delimiter: ";", blank_cells: omit}')
    row, empty = found("10;A;;5", "10;A;;", using=using)
    assert row.reports[0].values == {"relativeHumidity": 0.05}
    assert (row.missing, row.omitted) == (0, 1)
    assert (empty.reports, empty.omitted) == ((), 2)


def test_sentinels_are_sent_as_they_are_whatever_the_scale():
    (row,) = found("10;A;-200;-200.0")
    assert row.reports[0].values == {"temperature": -200.0, "relativeHumidity": -200.0}
    assert row.sentinels == 2
    assert [sensor.sentinels for sensor in mapped().devices[0].sensors] == [(-200.0,), (-200.0,)]


def test_blank_rows_are_counted_or_rejected():
    assert found(";;;", "", "  ;  ; ;", "10;B;1;")[:3] == [Blank(line=2), Blank(line=3), Blank(line=4)]
    rejected = found(";;;", using=mapped(file='file: {delimiter: ";", blank_rows: reject}'))
    assert [finding.reason for finding in rejected] == [Reject.BLANK]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("10;A;1", Reject.FIELDS, "3 fields, where 4 are expected"),
        ("10;A;1;2;3", Reject.FIELDS, "5 fields"),
        (b"10;A;\xff;2\n", Reject.ENCODING, "byte 5 of the line is not utf-8-sig"),
        ('10;A;"1;2', Reject.QUOTES, "unexpected end"),
        ('10;A;"1"x;2', Reject.QUOTES, "expected after"),
        ("noon;A;1;2", Reject.TIME, "'noon' is not a number"),
        (";A;1;2", Reject.TIME, ""),
        ("10;A;one;2", Reject.NUMBER, "column 'x': 'one' is not a number"),
        ("10;A;1,5;2", Reject.NUMBER, "'1,5'"),
        ("10;A;1_000;2", Reject.NUMBER, "1_000"),
        ("10;A;nan;2", Reject.NUMBER, "nan"),
        ("10;A;inf;2", Reject.NUMBER, "inf"),
        ("10;A;0x10;2", Reject.NUMBER, "0x10"),
        ("10;A;1e400;2", Reject.NUMBER, "beyond the range"),
        ("10;A;1e99999999999999999999;2", Reject.NUMBER, "beyond the range"),
        ("10;A;١;2", Reject.NUMBER, "not a number"),
        ("10;A;" + "1" * 65 + ";2", Reject.NUMBER, "not a number"),
        ("10;A;1;-20000", Reject.SENTINEL, "'-20000' times 0.01 equals a sentinel"),
        ("10;C;1;2", Reject.NO_DEVICE, "kind='C'"),
    ],
)
def test_what_cannot_be_read_is_named_and_stops_nothing(line: str | bytes, reason: Reject, detail: str):
    before, finding, after = found("1;B;1;", line, "2;B;2;")
    assert isinstance(before, Row)
    assert isinstance(after, Row)
    assert isinstance(finding, Rejected)
    assert (finding.file, finding.line, finding.reason) == ("f.csv", 3, reason)
    assert detail in finding.detail
    assert "\n" not in finding.detail
    assert len(finding.detail) <= 300


def test_doubtful_times_are_rejected_or_marked():
    time = "time: {columns: [t], format: '%Y-%m-%d %H:%M', zone: Europe/Paris, ambiguous: earlier}"
    gap, twice, plain = found("2013-03-31 02:30;B;1;", "2013-10-27 02:30;B;1;", "2013-10-28 02:30;B;1;", using=mapped(time=time))
    assert gap.reason is Reject.NONEXISTENT
    assert twice.oddity == "ambiguous"
    assert plain.oddity is None
    (twice,) = found("2013-10-27 02:30;B;1;", using=mapped(time=time.replace(", ambiguous: earlier", "")))
    assert twice.reason is Reject.AMBIGUOUS


def test_a_decimal_comma():
    using = mapped(file='file: {delimiter: ";", decimal: ","}')
    row, point, two = found("10;B;-1,50;", "10;B;1.5;", "10;B;1,5,0;", using=using)
    assert row.reports[0].values == {"pm25": -1.5}
    assert [point.reason, two.reason] == [Reject.NUMBER, Reject.NUMBER]


def test_columns_of_time_are_joined():
    time = "time: {columns: [kind, t], format: '%d/%m/%Y %H.%M.%S', zone: UTC}"
    text = MAP.replace("time: {columns: [t], format: unix}", time).replace('    where: {kind: "A"}\n', "").split("  - id: b")[0]
    (row,) = found("18.00.00;02/01/1970;1;2", using=load_map(text, origin="m"))
    assert row.time == DAY + 18 * 3600 * 1_000_000


def test_a_file_without_a_header():
    using = load_map(
        "file: {header: false, columns: [t, v]}\ntime: {columns: [t], format: unix}\n"
        "devices: [{id: a, source: s, domain: environment, columns: {v: {metric: pm25}}}]",
        origin="m",
    )
    rows = list(read([b"\xef\xbb\xbf1,2\n", b"3,4"], using, file="f"))
    assert [(row.line, row.time, row.reports[0].values) for row in rows] == [
        (1, 10**6, {"pm25": 2.0}),
        (2, 3 * 10**6, {"pm25": 4.0}),
    ]


def test_encodings_and_byte_order_marks():
    utf8 = mapped(file='file: {delimiter: ";", encoding: utf-8}')
    assert isinstance(found("1;B;1;", using=utf8, header="\ufefft;kind;x;y")[0], Row)
    assert isinstance(found("1;B;1;", header="\ufefft;kind;x;y")[0], Row)
    latin = mapped(file='file: {delimiter: ";", encoding: latin-1}')
    assert isinstance(found(b"1;B;1;\xb0\n", using=latin)[0], Row)


def test_a_column_of_several_devices():
    text = MAP.replace('where: {kind: "B"}', 'where: {kind: "A"}')
    (row,) = found("10;A;5;50", using=load_map(text, origin="m"))
    assert [(report.device, report.values) for report in row.reports] == [
        ("a", {"temperature": 5.0, "relativeHumidity": 0.5}),
        ("b", {"pm25": 5.0}),
    ]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("t;kind;x", "f.csv: column 'y' of map.yaml is not in the header: 't', 'kind', 'x'"),
        ("t;kind;x;y;x", "column 'x' of map.yaml stands more than once"),
        ("", "column 't' of map.yaml is not in the header"),
        ('"t;kind', "the header cannot be read"),
    ],
)
def test_a_header_that_does_not_fit(header: str, message: str):
    with pytest.raises(RecordingError, match=message):
        found("1;B;1;", header=header)
    with pytest.raises(RecordingError, match="is not in the header"):
        list(read([], mapped(), file="f.csv"))


def test_a_file_of_no_device():
    text = MAP.replace("    where:", "    files: [other.csv]\n    where:")
    with pytest.raises(RecordingError, match=r"f\.csv: no device of map\.yaml reads a file of this name"):
        found(using=load_map(text, origin="map.yaml"))


DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1e12"), max_value=Decimal("1e12"), places=6)
SCALES = st.one_of(
    st.sampled_from(["1000", "0.001", "0.01", "1.609344", "12", "3.6"]).map(Decimal),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("1e-6"), max_value=Decimal("1e6")),
)


@given(DECIMALS, SCALES)
def test_a_scaled_value_is_the_float_nearest_to_the_exact_product(number: Decimal, scale: Decimal):
    assert float(scaled(number, scale)) == float(Fraction(number) * Fraction(scale))


def test_kilowatts_become_whole_watts():
    text = MAP.replace("{metric: pm25}", "{metric: totalActivePower, scale: 1000}")
    values = [f"{i / 1000:.3f}" for i in range(10_000)]
    rows = found(*(f"10;B;{value};" for value in values), using=load_map(text, origin="m"))
    assert [row.reports[0].values["totalActivePower"] for row in rows] == [float(i) for i in range(10_000)]


@given(st.lists(st.tuples(st.integers(0, 10**9), st.sampled_from(["7", "?", "", "x", "-200"])), max_size=30))
def test_nothing_is_dropped_and_the_order_is_the_files(rows: list[tuple[int, str]]):
    findings = found(*(f"{t};A;{cell};1" for t, cell in rows))
    assert [finding.line for finding in findings] == list(range(2, len(rows) + 2))
    for finding, (t, cell) in zip(findings, rows, strict=True):
        assert isinstance(finding, Rejected) == (cell == "x")
        if isinstance(finding, Row):
            assert finding.time == t * 1_000_000
