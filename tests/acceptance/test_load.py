"""`citybeat simulate load` as a user starts it: against citybeat itself, and as if against a broker that is somebody else's."""

import json

import pytest

from citybeat.storage.accounts import ledger
from tests.acceptance.conftest import wait_for


@pytest.fixture
def ingest(town):
    process = town.start("ingest", "--stats")
    process.wait_ready()
    yield
    assert process.stop() == 0


@pytest.mark.parametrize("form", ["reports", "columns"])
def test_what_is_acknowledged_is_stored_and_good(town, ingest, form):
    names = [f"{form}-{i}" for i in (1, 2)]
    done = town.run(
        *("simulate", "load", "--source", form, "--readings-rate", "20000", "--size", "50", "--connections", "2"),
        *("--form", form, "--for", "2s", "--json"),
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    report = lines[-1]["report"]
    assert report["messages"] == report["sent"] == 800
    assert report["readings"] == 40_000
    assert report["wanted_per_s"] == 400
    assert (report["unheard"], report["refused"], report["complete"]) == (0, {}, True)
    assert lines[0]["connected"] == 2
    assert lines[0]["latency"]["p99"] > 0
    with town.database() as database:
        wait_for(lambda: ledger.totals(database, sources=names).received >= 40_000, lambda: ledger.totals(database, sources=names))
        totals = ledger.totals(database, sources=names)
        assert (totals.stored, totals.received, totals.messages) == (40_000, 40_000, 800)
        numbers = ledger.numbers(database, names)
        assert sorted(numbers.values()) == [(400, 0), (400, 0)], "every number came, and there is no hole"
        flags = database.execute(
            "SELECT r.flags, count(*) FROM readings r JOIN series s ON s.id = r.series_id WHERE s.device_id LIKE %s GROUP BY 1",
            (f"{form}-%",),
        ).fetchall()
        assert flags == [(0, 40_000)]


def test_any_broker(town):
    """A system known by its address, a user and a password only; nothing is registered."""
    url = f"mqtt://127.0.0.1:{town.settings.mqtt_port}"
    word = town.password("anybody")
    arguments = ("simulate", "load", "--url", url, "--username", "anybody", "--topic", "city/v1/anybody/{source}/x", "--for", "2s")
    done = town.run(
        *arguments, "--protocol", "3.1.1", CITYBEAT_LOAD_PASSWORD=word, CITYBEAT_DATABASE_URL="postgresql://nowhere:1/x"
    )
    assert "messages/s" in done.stderr
    assert "limited by" in done.stdout
    assert "from schedule" not in done.stdout, "there is none"
    acknowledged = int(done.stdout.split("acknowledged")[1].split(" messages/s")[0].strip().replace(",", ""))
    assert acknowledged > 1000
    secret = town.logs / "secret"
    secret.write_text(f"{word}\n")
    done = town.run(*arguments, "--rate", "100", "--connections", "1", "--password-file", str(secret))
    assert "wanted        100.0 messages/s" in done.stdout
    assert "in all        200 messages" in done.stdout
    with town.database() as database:
        assert not database.execute("SELECT FROM devices WHERE id LIKE 'load-%'").fetchall()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--url", "{url}", "--username", "anybody"), "refuses user 'anybody': Not authorized"),
        (("--url", "mqtt://127.0.0.1:9"), "no MQTT broker answers at 127.0.0.1:9"),
        (("--url", "mqtt://u:secret@127.0.0.1"), "CITYBEAT_LOAD_PASSWORD or --password-file"),
        (("--url", "nonsense"), "mqtt://host:port is expected"),
        (("--rate", "fast"), "--rate fast: expected messages a second, a number above 0, or max"),
        (("--rate", "5", "--readings-rate", "5"), "exclude each other"),
        (("--username", "anybody"), "need --url"),
        (("--source", "a/b"), "a/b-1"),
        (("--for", "soon"), "soon"),
    ],
)
def test_mistakes_are_one_line(town, arguments, words):
    url = f"mqtt://127.0.0.1:{town.settings.mqtt_port}"
    done = town.run("simulate", "load", *(each.format(url=url) for each in arguments), check=False, CITYBEAT_LOAD_PASSWORD="wrong")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr
    assert "secret" not in done.stderr
