"""A restricted key on every route: its answers are those of a city that has nothing else.

Two databases: a city, and one that holds only what the key may see. Whatever is asked, with the restricted key of the one, and
without restriction of the other, must be answered the same: then nothing of the rest can be seen, counted or guessed.
"""

import json
from contextlib import closing

import pytest

from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device, Sensor
from citybeat.ingest.http import HttpIngest
from citybeat.ingest.judging.message import Message
from citybeat.ingest.judging.validate import Limits
from citybeat.ingest.transport.inbox import BatchSize
from citybeat.ingest.writing.pipeline import Pipeline
from citybeat.storage.db.connection import connect
from citybeat.storage.reads import states
from citybeat.storage.registry import keys, records
from citybeat.storage.registry.keys import Scope
from citybeat.storage.registry.selection import Restriction

T0 = 1_767_225_600_000_000
MINUTE = 60_000_000
OWN = [
    Device(
        id=f"own-{i}",
        source="gw-own",
        domain="environment",
        district="north",
        latitude=10.0 + i / 100,
        longitude=106.0,
        tags={"owner": "parks", "n": str(i)},
        sensors=(Sensor(metric="temperature"), Sensor(metric="pm25")),
    )
    for i in range(3)
]
#: In the way of everything that could go wrong: another district, domain or tag; ids between and around; a place in the middle.
OTHERS = [
    Device(
        id=name,
        source=source,
        domain=domain,
        district=district,
        latitude=10.01,
        longitude=106.0,
        tags=tags,
        sensors=(Sensor(metric=metric),),
    )
    for name, source, domain, district, tags, metric in [
        ("a-south", "gw-other", "environment", "south", {"owner": "parks"}, "temperature"),
        ("own-1b", "gw-other", "environment", "south", {"owner": "parks"}, "temperature"),
        ("own-1c", "gw-other", "energy", "north", {"owner": "parks"}, "phaseVoltage"),
        ("own-1d", "gw-other", "environment", "north", {"owner": "roads"}, "temperature"),
        ("own-1e", "gw-mixed", "environment", "north", {}, "temperature"),
        ("z-south", "gw-other", "environment", "", {"owner": "parks"}, "pm25"),
    ]
]
WITHIN = Restriction(domains=["environment", "traffic"], districts=["north", "east"], tags=[("owner", "parks"), ("n", None)])
RANGE = "from=2026-01-01T00:00:00Z&to=2026-01-01T02:00:00Z"
NAMES = [device.id for device in (*OWN, *OTHERS)]
#: Requests by route: method, address, body.
ASKED = {
    "/v1/catalogue": [("GET", "/v1/catalogue", None)],
    "/v1/devices": [
        ("GET", f"/v1/devices{query}", None)
        for query in (
            "",
            "?limit=1",
            "?district=south",
            "?district=north&district=south",
            "?domain=energy",
            "?tag=owner:roads",
            "?tag=n",
            "?source=gw-other",
            "?source=gw-mixed",
            "?bbox=105,9,107,11",
            "?near=10.01,106,100000",
            "?include_retired=true",
            "?device=own-1d&device=own-1",
        )
    ],
    "/v1/devices/{device}": [("GET", f"/v1/devices/{name}", None) for name in [*NAMES, "nobody"]],
    "/v1/devices/{device}/history": [("GET", f"/v1/devices/{name}/history", None) for name in [*NAMES, "nobody"]],
    "/v1/sources": [("GET", f"/v1/sources{query}", None) for query in ("", "?limit=1")],
    "/v1/latest": [
        ("GET", f"/v1/latest{query}", None)
        for query in (
            "",
            "?limit=1",
            "?district=south",
            "?metric=phaseVoltage",
            "?bbox=105,9,107,11",
            "?stale=true",
            "?stale=false",
            "?device=a-south",
            "?include_retired=true",
        )
    ],
    "/v1/states": [
        ("GET", f"/v1/states{query}", None)
        for query in ("", "?limit=1", "?state=overdue", "?district=south", "?device=own-1d", "?include_retired=true")
    ],
    # A stream has no end to compare; tests/integration/test_api_stream.py listens with a restricted key.
    "/v1/stream": [("GET", "/v1/stream?last_event_id=nonsense", None)],
    "/v1/series": [
        ("GET", f"/v1/series?device={name}&metric={metric}&{RANGE}{more}", None)
        for name in [*NAMES, "nobody"]
        for metric in ("temperature", "phaseVoltage")
        for more in ("", "&bucket=raw", "&bucket=1h&tz=Asia/Ho_Chi_Minh")
    ],
    "/v1/query": [
        ("POST", "/v1/query", {"devices": devices, "from": "2026-01-01T00:00:00Z", "to": "2026-01-01T02:00:00Z", "bucket": bucket})
        for devices in ({}, {"district": "south"}, {"domain": "energy"}, {"tags": {"owner": None}}, NAMES, NAMES[:3], ["a-south"])
        for bucket in ("auto", "raw", "15m")
    ],
    "/v1/readings": [
        ("GET", f"/v1/readings?{RANGE}{more}", None)
        for more in (
            "",
            "&limit=2",
            "&order=desc&limit=3",
            "&district=south",
            "&device=own-1e",
            "&flag=range",
            "&include_retired=true",
        )
    ],
    "/v1/readings/nearest": [
        ("GET", f"/v1/readings/nearest?at=2026-01-01T00:30:00Z{more}", None) for more in ("", "&device=a-south", "&metric=pm25")
    ],
    "/v1/export": [
        ("GET", f"/v1/export?{RANGE}&format=csv&level={level}{more}", None)
        for level in ("raw", "1m", "15m")
        for more in ("", "&district=south", "&device=own-1b", "&include_retired=true")
    ],
    "/v1/ledger": [
        ("GET", f"/v1/ledger{query}", None)
        for query in (
            "",
            "?source=gw-own",
            "?source=gw-other",
            "?source=gw-mixed&source=gw-own",
            "?source=%3F",
            "?limit=1",
            "?bucket=1h&tz=Asia/Ho_Chi_Minh",
            "?bucket=1d",
        )
    ],
    "/v1/liveness": [
        ("GET", f"/v1/liveness{query}", None)
        for query in ("", "?limit=2", "?district=south", "?stale=false", "?device=own-1d&device=own-1", "?include_retired=true")
    ],
    "/v1/quarantine": [
        ("GET", f"/v1/quarantine{query}", None)
        for query in (
            "",
            "?limit=1",
            "?source=gw-own",
            "?source=gw-other",
            "?source=gw-mixed",
            "?reason=unknown_device",
            "?reason=source_mismatch",
            "?reason=malformed",
        )
    ],
    "/v1/quarantine/{id}": [("GET", f"/v1/quarantine/{number}", None) for number in range(1, 7)],
}
#: Routes for keys that are never restricted.
ADMIN = {
    "POST /v1/quarantine/replay": ("/v1/quarantine/replay", {}),
    "POST /v1/devices": ("/v1/devices", {"id": "own-9", "source": "gw-own", "domain": "environment"}),
    "POST /v1/registry/import": ("/v1/registry/import", []),
    "PATCH /v1/devices/{device}": ("/v1/devices/own-0", {"name": "x"}),
    "DELETE /v1/devices/{device}": ("/v1/devices/own-0", None),
    "PUT /v1/devices/{device}/sensors/{metric}": ("/v1/devices/own-0/sensors/temperature", {}),
    "DELETE /v1/devices/{device}/sensors/{metric}": ("/v1/devices/own-0/sensors/temperature", None),
    "POST /v1/devices/{device}/sensors/{metric}/calibrations": ("/v1/devices/own-0/sensors/temperature/calibrations", {}),
    "PATCH /v1/sources/{source}": ("/v1/sources/gw-own", {"conflict_policy": "keep"}),
}
#: What may differ from one moment to the next.
MOMENTS = {"stream_cursor", "at", "age_s", "created_at", "updated_at", "retired_at", "received_at", "due_at"}


@pytest.fixture
def asked(database, other_database, start_api, fill_into):
    """`asked(method, url, body)`: the answer to the restricted key of a whole city, and to anybody of the part alone."""
    parts = {other_database: OWN, database: [*OWN, *OTHERS]}
    shown = {}
    for url, devices in parts.items():
        with closing(connect(url, application="test")) as connection:
            records.register(connection, OWN)  # first, so that they have the same numbers in both
            if devices is not OWN:
                records.register(connection, OTHERS)
            rows = [
                (device.id, sensor.metric, T0 + k * MINUTE // 2 + i, float(k % 7 + i), 1 if k == 5 else 0)
                for i, device in enumerate(devices)
                for sensor in device.sensors
                for k in range(40)
            ]
            fill_into(url, connection, rows, received_at=T0 + 3_600_000_000)
            refuse(url, devices)
            records.retire(connection, "own-2")
            states.watch(connection)
            shown[url] = keys.create(
                connection, name="part", scopes=[Scope.READ, Scope.WRITE], by="test", within=WITHIN if url == database else None
            )
    apis = [(start_api(url, anonymous=frozenset(), intake=intake(url)), shown[url]) for url in (database, other_database)]

    def ask(method, url, body):
        return [api.ask(method, url, json=body, headers={"Authorization": f"Bearer {key}"} if key else {})[0] for api, key in apis]

    return ask


def pipeline(url):
    return Pipeline(url, catalogue=builtin(), limits=Limits(), max_bytes=1_000_000, quarantine_quota=1_000_000)


def intake(url):
    return HttpIngest(pipeline(url), size=BatchSize(linger=0.001), max_bytes=1_000_000, room=1_000_000)


def refuse(url, devices):
    """Something in quarantine: of the own source first, so that it has the same numbers in both cities."""

    def message(source, body):
        return Message(f"city/v1/{source}/readings", body, T0, False, 1, 1, 1)

    of_others = [{"device": name, "ts": T0 // 1000, "values": {"temperature": 1, "noise": 2}} for name in [*NAMES[3:], "nobody"]]
    messages = [message("gw-own", b"{"), message("gw-own", json.dumps(of_others).encode())]
    if devices is not OWN:
        messages += [message("gw-other", b"{"), message("gw-mixed", b'{"device": "own-0", "ts": 1, "values": {"pm25": 1}}')]
    with closing(pipeline(url)) as writer:
        assert writer.process(messages, lambda: True) is not None


def plain(answer):
    """The content of an answer, without members that depend on the moment."""

    def without(thing):
        if isinstance(thing, dict):
            return {name: without(value) for name, value in thing.items() if name not in MOMENTS}
        return [without(each) for each in thing] if isinstance(thing, list) else thing

    return without(answer.json()) if "json" in answer.headers["content-type"] else answer.content


def test_a_restricted_key_lives_in_a_city_of_its_own(asked):
    told = set()
    for route, requests in ASKED.items():
        for request in requests:
            seen, alone = asked(*request)
            assert (seen.status_code, plain(seen)) == (alone.status_code, plain(alone)), request
            assert seen.status_code in {200, 404, 422}, request
            if seen.status_code == 200 and b"own-0" in seen.content:
                told.add(route)
    # All that tells of devices does tell: an empty answer would be the same too.
    assert told >= set(ASKED) - {
        "/v1/catalogue",
        "/v1/stream",
        "/v1/devices/{device}",
        "/v1/devices/{device}/history",
        "/v1/sources",
        "/v1/series",
        "/v1/ledger",
        "/v1/quarantine",
        "/v1/quarantine/{id}",
    }


def test_pages_of_a_restricted_key_go_on(asked):
    for first in ("/v1/devices?limit=1", "/v1/latest?limit=1", f"/v1/readings?{RANGE}&limit=7"):
        cursor, pages = "", 0
        while cursor is not None:
            seen, alone = asked("GET", first + (f"&cursor={cursor}" if cursor else ""), None)
            assert plain(seen) == plain(alone)
            cursor, pages = seen.json()["next_cursor"], pages + 1
        assert pages >= 2


def test_figures_of_the_whole_city_are_refused(asked):
    seen, alone = asked("GET", "/metrics", None)
    assert (seen.status_code, alone.status_code) == (403, 200)


def test_every_route_is_tested_here(api):
    guarded = {
        f"{method.upper()} {path}"
        for path, methods in api.app.openapi()["paths"].items()
        for method in methods
        if path.startswith("/v1/")
    }
    asked = {f"{requests[0][0]} {path}" for path, requests in ASKED.items()}
    assert guarded == {*asked, *ADMIN, "POST /v1/readings"}


def test_a_restricted_key_is_no_admin(asked):
    for route, (url, body) in ADMIN.items():
        for answer in asked(route.split()[0], url, body):
            assert answer.status_code == 403, route


@pytest.mark.parametrize("name", [*NAMES, "nobody"])
def test_what_is_posted_tells_nothing_of_others(asked, name):
    """Neither whether there is such a device, nor what sensors it has, nor whether it is in service."""
    for metric in ("temperature", "phaseVoltage", "nothing"):
        body = [{"device": name, "ts": T0 // 1000 + 7_000_000, "values": {metric: 220.0}}]
        seen, alone = asked("POST", "/v1/readings?source=gw-own", body)
        assert seen.status_code == 200
        assert plain(seen) == plain(alone)
    for source in ("gw-other", "gw-mixed", "gw-none"):
        seen, alone = asked("POST", f"/v1/readings?source={source}", body)
        assert (seen.status_code, plain(seen)) == (alone.status_code, plain(alone))
        assert seen.status_code == 404


def test_accounts_of_a_source_that_carries_for_others_too_are_not_shown(database, connection, start_api, fill):
    records.register(connection, [*OWN, OTHERS[0]])
    fill([("own-0", "temperature", T0, 1.0, 0), ("a-south", "temperature", T0, 1.0, 0)], received_at=T0)
    key = keys.create(connection, name="part", scopes=[Scope.READ], by="test", within=WITHIN)
    api = start_api(database, anonymous=frozenset())

    def sources():
        return set(api.ask("GET", "/v1/ledger", headers={"X-API-Key": key})[0].json()["columns"]["source"])

    assert sources() == {"gw-own"}
    # One device of another district, even one out of service, and the counts are no longer of this key's devices alone.
    connection.execute("UPDATE devices SET source_id = (SELECT id FROM sources WHERE name = 'gw-own') WHERE id = 'a-south'")
    assert records.retire(connection, "a-south")
    assert sources() == set()
