"""Log lines: one form for ours and the libraries', whatever is logged; no passwords, no forged lines."""

import json
import logging
import re
import warnings

import pytest
import structlog

from citybeat import logs


@pytest.fixture(autouse=True)
def restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def lines(capsys):
    """`lines(form)`: what stood on standard error since, line by line; first call it to begin."""

    def begin(form="text", level="INFO"):
        logs.to_stderr(level, form)
        return lambda: list(capsys.readouterr().err.splitlines())

    return begin


def test_a_line_of_the_standard_library(lines):
    written = lines()
    logging.getLogger("citybeat.ingest.transport.gateway").warning(
        "connection to %s lost", "mq.example:1883", extra={"source": "gw-1", "messages": 3}
    )
    (line,) = written()
    assert re.fullmatch(
        r"timestamp=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z level=warning logger=citybeat\.ingest\.transport\.gateway "
        r'event="connection to mq\.example:1883 lost" source=gw-1 messages=3',
        line,
    )


def test_the_same_as_json(lines):
    written = lines("json")
    logging.getLogger("paho").info("a %d", 1, extra={"source": "Bäckerei", "ok": True, "s": 0.5})
    found = json.loads(written()[0])
    assert found.pop("timestamp").endswith("Z")
    assert found == {"event": "a 1", "level": "info", "logger": "paho", "source": "Bäckerei", "ok": True, "s": 0.5}


def test_structlog_itself(lines):
    written = lines()
    structlog.get_logger("citybeat.commands.up").info("began", devices=3)
    structlog.get_logger("citybeat.commands.up").debug("unseen")
    (line,) = written()
    assert line.endswith("level=info logger=citybeat.commands.up event=began devices=3")


def test_the_level_counts(lines):
    written = lines(level="ERROR")
    logging.getLogger("x").warning("unseen")
    assert written() == []


@pytest.mark.parametrize("form", ["text", "json"])
def test_tracebacks(lines, form):
    written = lines(form)
    try:
        raise ValueError("this one")
    except ValueError:
        logging.getLogger("x").exception("failed")
    first, *rest = written()
    if form == "json":
        assert rest == []
        assert "ValueError: this one" in json.loads(first)["exception"]
    else:
        assert first.endswith("event=failed")
        assert rest[0].startswith("Traceback")
        assert rest[-1] == "ValueError: this one"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "url", ["postgresql://u:s3cret@h/d", "mqtt://u:p@s3cret@h", "mqtts://:s3cret@h:8883", "see (https://a.b:s3cret@h) there"]
)
def test_passwords_in_addresses_are_taken_out(lines, form, url):
    written = lines(form)
    logging.getLogger("x").warning("cannot reach %s", url, extra={"url": url, "error": OSError(url)})
    (line,) = written()
    assert "s3cret" not in line
    assert line.count("***@h") == 3


def test_other_addresses_stay_as_they_are():
    for text in ("mqtt://host:1883/x@y", "postgresql://user@host/db", "at 12:30:00 a@b"):
        assert logs.redacted(text) == text


@pytest.mark.parametrize("form", ["text", "json"])
def test_nobody_forges_a_line(lines, form):
    written = lines(form)
    logging.getLogger("x").info("from %s", 'gw\nlevel=error\r\x1b[2J\u2028"', extra={"source": "a\nb"})
    (line,) = written()
    assert "\x1b" not in line
    assert "\r" not in line
    if form == "text":
        assert r'event="from gw\nlevel=error\\x0d\\x1b' in line


def test_keys_that_are_none(lines):
    written = lines()
    with warnings.catch_warnings():
        logging.getLogger("x").info("odd", extra={"a key": 1, "empty": None, "list": [1, 2]})
    (line,) = written()
    assert line.endswith('event=odd a_key=1 empty= list="[1, 2]"')


@pytest.mark.parametrize("form", ["text", "json"])
def test_rows_that_the_database_quotes_are_taken_out_of_tracebacks(lines, form):
    written = lines(form)
    detail = "DETAIL:  Failing row contains (zuckerwatte,\nzuckerwatte)."
    quoting = f'null value in column x\n{detail}\nCONTEXT:  COPY t, line 1: "zuckerwatte"'
    try:
        try:
            raise ValueError(quoting)
        except ValueError as exc:
            raise OSError("it refuses us") from exc
    except OSError:
        logging.getLogger("x").exception("failed\n")
    text = "\n".join(written())
    assert "zuckerwatte" not in text
    assert "null value in column x" in text
    assert "DETAIL: …" in text
    assert "it refuses us" in text
    assert "direct cause" in text
    assert "failed\\n" not in text
