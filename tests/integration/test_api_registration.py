"""The registry changed by HTTP: what is answered, what is stored, what the history says, and what ingest sees."""

import asyncio
import json
import threading
from contextlib import closing
from datetime import UTC, datetime

import httpx
import pytest

from citybeat.api.http import models
from citybeat.devices.catalogue import builtin
from citybeat.devices.device import Device
from citybeat.devices.flags import Verdict
from citybeat.storage.batches import flagging
from citybeat.storage.db.connection import connect
from citybeat.storage.registry import changes as registration
from citybeat.storage.registry import keys, records
from citybeat.storage.registry.keys import Scope

DEVICE = {
    "id": "env-1",
    "source": "gw-1",
    "domain": "environment",
    "name": "Quang Trung 12",
    "latitude": 13.764,
    "longitude": 109.199,
    "district": "Quang Trung",
    "tags": {"owner": "parks"},
    "sensors": [{"metric": "pm25"}, {"metric": "temperature", "unit": "[degF]", "high": 50.0, "calibration": {"offset": -0.4}}],
}
CSV = {"content-type": "text/csv; charset=utf-8"}


@pytest.fixture
def ask(api):
    def ask(method, url, body=None, **headers):
        return api.ask(method, url, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})[0]

    return ask


@pytest.fixture
def device(ask):
    made = ask("POST", "/v1/devices", DEVICE)
    assert made.status_code == 201, made.text
    return made


def history(ask, device="env-1"):
    answer = ask("GET", f"/v1/devices/{device}/history")
    assert answer.status_code == 200
    models.HistoryModel.model_validate(answer.json())
    return [(c["subject"], c["metric"], c["action"]) for c in answer.json()["changes"]]


def test_a_device_is_made(ask, device, connection):
    assert device.headers["location"] == "/v1/devices/env-1"
    shown = ask("GET", "/v1/devices/env-1")
    assert shown.json() == device.json()
    assert shown.headers["etag"] == device.headers["etag"]
    detail = models.DeviceDetailModel.model_validate(shown.json())
    assert (detail.name, detail.district, detail.tags) == ("Quang Trung 12", "Quang Trung", {"owner": "parks"})
    pm25, temperature = detail.sensors
    assert (temperature.registered.unit, temperature.registered.high, temperature.high) == ("[degF]", 50.0, 50.0)
    assert [(c.offset, c.valid_from) for c in temperature.calibrations] == [(-0.4, None)]
    assert pm25.calibrations == []
    known = records.load(connection, builtin())
    assert ("env-1", "pm25") in known.series
    assert history(ask) == [
        ("calibration", "temperature", "created"),
        ("sensor", "temperature", "created"),
        ("sensor", "pm25", "created"),
        ("device", None, "created"),
    ] or history(ask)[-1] == ("device", None, "created")


def test_what_a_sensor_is_called_in_senml(ask, device):
    pm25, temperature = device.json()["sensors"]
    assert pm25["senml"] == {"n": "env-1:pm25", "u": "ug/m3"}
    assert temperature["senml"] == {"n": "env-1:temperature", "u": None}  # it sends Fahrenheit, which SenML has no name for


def test_a_device_is_made_once(ask, device):
    refused = ask("POST", "/v1/devices", DEVICE | {"name": "another"})
    assert refused.status_code == 409
    assert "PATCH" in refused.json()["detail"]
    assert ask("DELETE", "/v1/devices/env-1").status_code == 204
    assert "out of service" in ask("POST", "/v1/devices", DEVICE).json()["detail"]
    assert ask("GET", "/v1/devices/env-1").json()["name"] == "Quang Trung 12"


def test_what_is_left_out_of_a_patch_stays(ask, device):
    before = device.json()
    changed = ask(
        "PATCH", "/v1/devices/env-1", {"district": "Đống Đa", "tags": {"model": "SDS011", "owner": None}, "latitude": 13.79}
    )
    assert changed.status_code == 200, changed.text
    after = changed.json()
    assert (after["district"], after["tags"], after["latitude"]) == ("Đống Đa", {"model": "SDS011"}, 13.79)
    for name in ("name", "domain", "source", "longitude", "sensors", "created_at"):
        assert after[name] == before[name]
    assert changed.headers["etag"] != device.headers["etag"]
    cleared = ask("PATCH", "/v1/devices/env-1", {"latitude": None, "longitude": None, "tags": None, "name": None}).json()
    assert (cleared["latitude"], cleared["longitude"], cleared["tags"], cleared["name"]) == (None, None, {}, "")


@pytest.mark.parametrize(
    ("patch", "name"),
    [
        ({"latitude": None}, "device"),
        ({"source": "admin"}, "source"),
        ({"source": None}, "source"),
        ({"domain": "weather"}, "domain"),
        ({"latitude": 91.0}, "latitude"),
        ({"tags": {"a": 1}}, "tags"),
        ({"id": "env-2"}, "id"),
        ({"retired": "yes"}, "retired"),
    ],
)
def test_a_patch_that_makes_no_device_changes_nothing(ask, device, patch, name):
    refused = ask("PATCH", "/v1/devices/env-1", {"name": "x"} | patch)
    assert refused.status_code == 422, refused.text
    assert name in {part for error in refused.json()["errors"] for part in error["loc"]}
    assert ask("GET", "/v1/devices/env-1").headers["etag"] == device.headers["etag"]


def test_what_says_nothing_new_changes_nothing(ask, device):
    tag = device.headers["etag"]
    for method, url, body in (
        ("PATCH", "/v1/devices/env-1", {"name": "Quang Trung 12"}),
        ("PATCH", "/v1/devices/env-1", {}),
        ("PUT", "/v1/devices/env-1/sensors/temperature", {"unit": "[degF]", "high": 50.0}),
        ("POST", "/v1/devices/env-1/sensors/temperature/calibrations", {"offset": -0.4}),
    ):
        answer = ask(method, url, body)
        assert answer.status_code in {200, 201}
        assert answer.headers["etag"] == tag, (method, url)


def test_nobody_overwrites_what_he_has_not_seen(ask, device):
    tag = device.headers["etag"]
    assert ask("PATCH", "/v1/devices/env-1", {"name": "a"}, if_match=tag).status_code == 200
    changes = [
        ("PATCH", "/v1/devices/env-1", {"name": "b"}),
        ("DELETE", "/v1/devices/env-1", None),
        ("PUT", "/v1/devices/env-1/sensors/pm10", {}),
        ("DELETE", "/v1/devices/env-1/sensors/pm25", None),
        ("POST", "/v1/devices/env-1/sensors/pm25/calibrations", {"offset": 1.0}),
    ]
    for method, url, body in changes:
        refused = ask(method, url, body, if_match=tag)
        assert refused.status_code == 412, (method, refused.text)
        current = ask("GET", "/v1/devices/env-1").headers["etag"]
        assert current in refused.json()["detail"]
    # Each of them makes it another one.
    for method, url, body in [*changes[2:], changes[0], changes[1]]:
        current = ask("GET", "/v1/devices/env-1").headers["etag"]
        assert ask(method, url, body, if_match=f'"else", {current}').status_code in {200, 201, 204}
        assert ask("GET", "/v1/devices/env-1").headers["etag"] != current, url
    assert ask("PATCH", "/v1/devices/env-1", {"name": "c"}, if_match="*").status_code == 200


def test_of_changes_at_once_one_wins(ask, device, api, database):
    tag = device.headers["etag"]
    start, won = threading.Barrier(8), []

    def change(name):
        with closing(connect(database, application="test")) as connection:
            start.wait()
            try:
                registration.update(
                    connection, "env-1", name, change=lambda there: Device(**{**as_dict(there), "name": name}), expected=[tag]
                )
                won.append(name)
            except registration.ChangedError:
                pass

    threads = [threading.Thread(target=change, args=(f"clerk {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert ask("GET", "/v1/devices/env-1").json()["name"] == won[0]


def as_dict(device):
    return {name: getattr(device, name) for name in Device.__dataclass_fields__}


def declare(connection, moment):
    kind = records.load(connection, builtin()).kind
    declared = {"device": "env-1", "metric": "pm25", "verdict": Verdict.BAD, "by": "lan", "reason": "dust"}
    flagging.declare(connection, flagging.Declaration(start=moment, end=moment.replace(year=moment.year + 1), **declared), kind)


def test_readings_do_not_change_the_etag(ask, device, fill, connection):
    fill([("env-1", "pm25", 1_767_225_600_000_000, 1.0, 0)], received_at=1_767_225_600_000_000)
    declare(connection, datetime(2026, 1, 1, tzinfo=UTC))
    assert ask("GET", "/v1/devices/env-1").headers["etag"] == device.headers["etag"]
    assert history(ask)[0] == ("declaration", "pm25", "created")


def test_nothing_tells_how_much_is_changed_elsewhere(ask, device):
    """A restricted key would learn it from numbers of all changes, in an ETag or a cursor."""
    other = DEVICE | {"id": "env-2"}
    for i in range(3):
        assert ask("POST", "/v1/devices", DEVICE | {"id": f"between-{i}"}).status_code == 201
    made = ask("POST", "/v1/devices", other)
    assert made.headers["etag"] == device.headers["etag"]
    pages = [ask("GET", f"/v1/devices/{name}/history?limit=1").json()["next_cursor"] for name in ("env-1", "env-2")]
    assert pages[0] == pages[1] is not None


def test_out_of_service_and_back(ask, device, connection):
    assert ask("DELETE", "/v1/devices/env-1").status_code == 204
    tag = ask("GET", "/v1/devices/env-1").headers["etag"]
    assert ask("DELETE", "/v1/devices/env-1").status_code == 204  # again is no mistake, and no change
    assert ask("GET", "/v1/devices/env-1").headers["etag"] == tag
    assert ask("GET", "/v1/devices").json()["devices"] == []
    assert records.load(connection, builtin()).retired[1:3].all()
    back = ask("PATCH", "/v1/devices/env-1", {"retired": False})
    assert back.json()["retired_at"] is None
    assert not records.load(connection, builtin()).retired[1:3].any()
    assert history(ask)[:2] == [("device", None, "restored"), ("device", None, "retired")]


def test_a_sensor_out_of_service_and_back(ask, device, connection):
    assert ask("DELETE", "/v1/devices/env-1/sensors/pm25").status_code == 204
    shown = ask("GET", "/v1/devices/env-1").json()
    assert shown["metrics"] == ["temperature"]
    assert [sensor["metric"] for sensor in shown["sensors"] if sensor["retired_at"]] == ["pm25"]
    known = records.load(connection, builtin())
    assert known.retired[known.series["env-1", "pm25"]]
    assert not known.retired[known.series["env-1", "temperature"]]
    listed = ask("GET", "/v1/liveness").json()["columns"]["metric"]
    assert listed == ["temperature"]
    assert ask("PUT", "/v1/devices/env-1/sensors/pm25", {"high": 500.0}).status_code == 200
    assert ask("GET", "/v1/devices/env-1").json()["metrics"] == ["pm25", "temperature"]
    assert history(ask)[0] == ("sensor", "pm25", "restored")
    for url in ("/v1/devices/env-1/sensors/no2", "/v1/devices/nobody/sensors/pm25"):
        assert ask("DELETE", url).status_code == 404


def test_a_sensor_of_a_device_out_of_service_does_not_bring_it_back(ask, device):
    ask("DELETE", "/v1/devices/env-1")
    assert ask("PUT", "/v1/devices/env-1/sensors/no2", {}).json()["retired_at"] is not None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"unit": "kV"}, "kV"),
        ({"interval": 0}, "interval"),
        ({"interval": 1e40}, "interval"),
        ({"stuck_after": 1e40}, "stuck_after"),
        ({"low": "1"}, "low"),
        ({"lwo": 1.0}, "lwo"),
        ({"unit": ""}, "unit"),
    ],
)
def test_a_sensor_that_is_none(ask, device, body, words):
    refused = ask("PUT", "/v1/devices/env-1/sensors/pm25", body)
    assert refused.status_code == 422, refused.text
    assert words in refused.json()["detail"]


def test_a_metric_that_is_none_names_those_near(ask, device):
    refused = ask("PUT", "/v1/devices/env-1/sensors/pm52", {})
    assert refused.status_code == 422
    assert "did you mean 'pm25'" in refused.json()["detail"]
    assert (
        "did you mean" in ask("POST", "/v1/devices", DEVICE | {"id": "b", "sensors": [{"metric": "temprature"}]}).json()["detail"]
    )


def test_calibrations_have_a_history(ask, device):
    url = "/v1/devices/env-1/sensors/temperature/calibrations"
    made = ask("POST", url, {"scale": 1.02, "valid_from": "2026-03-01T08:00:00+07:00", "by": "lab", "reason": "certificate 12"})
    assert made.status_code == 201
    (_, temperature) = made.json()["sensors"]
    assert [(c["scale"], c["valid_from"]) for c in temperature["calibrations"]] == [(1.0, None), (1.02, "2026-03-01T01:00:00Z")]
    (_, temperature) = ask("POST", url, {"scale": 3.0, "valid_from": "9000-01-01T00:00:00Z"}).json()["sensors"]
    assert [c["in_force"] for c in temperature["calibrations"]] == [False, True, False]
    (_, temperature) = ask("POST", url, {"scale": 1.03, "valid_from": "2026-03-01T08:00:00+07:00"}).json()["sensors"]
    assert [(c["scale"], c["in_force"]) for c in temperature["calibrations"]] == [
        (1.0, False),
        (1.02, False),
        (1.03, True),
        (3.0, False),
    ]
    assert ask("POST", url, {"scale": 0}).status_code == 422
    assert ask("POST", url.replace("temperature", "no2"), {"offset": 1.0}).status_code == 404


def test_the_history_says_who(ask, device, database, connection, start_api):
    key = keys.create(connection, name="parks", scopes=[Scope.ADMIN], by="test")
    closed = start_api(database, anonymous=frozenset())
    headers = {"X-API-Key": key}
    assert closed.ask("PATCH", "/v1/devices/env-1", json={"name": "by a key"}, headers=headers)[0].status_code == 200
    registration.act_as(connection, "lan (citybeat devices)")
    records.retire(connection, "env-1")
    declare(connection, connection.execute("SELECT now()").fetchone()[0])
    pages, cursor = [], ""
    while cursor is not None:
        answer = ask("GET", f"/v1/devices/env-1/history?limit=2{'&cursor=' + cursor if cursor else ''}").json()
        pages += answer["changes"]
        cursor = answer["next_cursor"]
    assert [(c["actor"], c["subject"], c["action"]) for c in pages[:3]] == [
        ("lan (citybeat devices)", "declaration", "created"),
        ("lan (citybeat devices)", "device", "retired"),
        (f"key {key.split('_')[1]} (parks)", "device", "changed"),
    ]
    assert (pages[2]["before"]["name"], pages[2]["after"]["name"]) == ("Quang Trung 12", "by a key")
    assert pages[-1]["actor"] == "anonymous"
    # One key does not see what another one is.
    assert ask("GET", "/v1/devices/nobody/history").status_code == 404


def test_the_history_has_numbers_of_any_size(ask, device):
    for high in (1e300, 1e22, 9007199254740993.0, 50.0, 0.1):
        assert ask("PUT", "/v1/devices/env-1/sensors/pm25", {"high": high, "low": -high}).status_code == 200
        answer = ask("GET", "/v1/devices/env-1/history?limit=1")
        assert answer.status_code == 200, answer.text
        after = answer.json()["changes"][0]["after"]
        assert (after["high"], after["low"]) == (high, -high)


def test_sources(ask, device):
    (source,) = ask("GET", "/v1/sources").json()["sources"]
    assert (source["name"], source["conflict_policy"], source["devices"]) == ("gw-1", "keep", 1)
    changed = ask("PATCH", "/v1/sources/gw-1", {"conflict_policy": "replace"})
    assert changed.json()["conflict_policy"] == "replace"
    assert ask("PATCH", "/v1/sources/gw-9", {"conflict_policy": "keep"}).status_code == 404
    assert ask("PATCH", "/v1/sources/gw-1", {"conflict_policy": "both"}).status_code == 422


FILE = (
    "id,source,domain,name,latitude,longitude,district,tag.owner,metric,unit,high,sentinels\r\n"
    "env-1,gw-1,environment,Quang Trung 12,13.764,109.199,Quang Trung,parks,pm25,,999.9,\r\n"
    ",,,,,,,,temperature,[degF],50,-1\r\n"
    "env-2,gw-1,environment,,,,Đống Đa,,no2,,,\r\n"
)


def imported(api, content, kind="text/csv; charset=utf-8", query=""):
    return api.ask("POST", f"/v1/registry/import{query}", content=content, headers={"content-type": kind})[0]


def test_a_file_of_devices(api, ask, device):
    tried = imported(api, FILE.encode(), query="?dry_run=true")
    assert tried.json() == {"devices": 2, "sensors": 3, "created": 1, "changed": 1, "unchanged": 0, "dry_run": True}
    assert ask("GET", "/v1/devices/env-2").status_code == 404
    assert ask("GET", "/v1/devices/env-1").headers["etag"] == device.headers["etag"]
    done = imported(api, FILE.encode())
    assert done.json() == tried.json() | {"dry_run": False}
    models.ImportedModel.model_validate(done.json())
    assert ask("GET", "/v1/devices/env-2").json()["district"] == "Đống Đa"
    assert imported(api, FILE.encode()).json()["unchanged"] == 2


def test_what_is_exported_is_imported_to_the_same(api, ask, device):
    imported(api, FILE.encode())
    tags = {name: ask("GET", f"/v1/devices/{name}").headers["etag"] for name in ("env-1", "env-2")}
    file = ask("GET", "/v1/devices", accept="text/csv")
    assert file.headers["content-type"].startswith("text/csv")
    assert imported(api, file.content).json() == {
        "devices": 2,
        "sensors": 3,
        "created": 0,
        "changed": 0,
        "unchanged": 2,
        "dry_run": False,
    }
    assert tags == {name: ask("GET", f"/v1/devices/{name}").headers["etag"] for name in tags}
    assert ask("GET", "/v1/devices?district=nowhere", accept="text/csv").text.count("\r\n") == 1
    place = ask("GET", "/v1/devices", accept="application/geo+json").json()
    models.DeviceFeaturesModel.model_validate(place)
    assert [feature["geometry"] for feature in place["features"]] == [{"type": "Point", "coordinates": [109.199, 13.764]}, None]


@pytest.mark.parametrize("query", ["include_retired=true", "limit=10", "cursor=WyJhIl0"])
def test_a_file_is_whole_and_of_devices_in_service(ask, device, query):
    refused = ask("GET", f"/v1/devices?{query}", accept="text/csv")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["loc"] == ["query", query.split("=")[0]]


def test_others_are_answered_while_a_file_is_read(api, monkeypatch):
    answered = threading.Event()

    def read(*_):
        assert answered.wait(10)
        return [], []

    monkeypatch.setattr("citybeat.api.files.imports.read", read)

    async def both():
        transport = httpx.ASGITransport(app=api.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://citybeat.test") as client:
            file = asyncio.create_task(client.post("/v1/registry/import", content=b"x", headers=CSV))
            await asyncio.sleep(0)
            assert (await client.get("/v1/devices")).status_code == 200
            answered.set()
            return await file

    assert api._runner.run(both()).json()["devices"] == 0


def test_a_unit_that_is_none_is_told_with_its_line(api):
    rows = ["env-1,gw-1,environment,,,,,,temperature,kV,,\r\n", "env-2,gw-1,environment,,,,,,no2,ppb,,\r\n"]
    refused = imported(api, (FILE.splitlines(keepends=True)[0] + "".join(rows)).encode())
    assert [error["loc"] for error in refused.json()["errors"]] == [["body", "line 2", "unit"], ["body", "line 3", "unit"]]


def test_with_a_mistake_nothing_is_registered_and_every_one_is_told(api, ask):
    rows = [f"env-{i},gw-1,environment,,,,,,{'pm25' if i % 3 else 'pm52'},,,\r\n" for i in range(3000)]
    refused = imported(api, (FILE.splitlines(keepends=True)[0] + "".join(rows)).encode())
    assert refused.status_code == 422
    problem = refused.json()
    assert problem["mistakes"] == 1000
    assert len(problem["errors"]) == 1000
    assert problem["errors"][1]["loc"] == ["body", "line 5", "metric"]
    assert "nothing was registered" in problem["detail"]
    assert ask("GET", "/v1/devices").json()["devices"] == []


@pytest.mark.parametrize("kind", ["", "application/xml", "application/octet-stream"])
def test_a_file_that_is_none_of_ours(api, kind):
    refused = imported(api, b"x", kind)
    assert refused.status_code == 415
    assert "text/csv" in refused.json()["detail"]


def test_other_forms_of_files(api, ask):
    assert imported(api, json.dumps([DEVICE]).encode(), "application/json").json()["created"] == 1
    feature = {"type": "Feature", "geometry": None, "properties": {"id": "env-3", "source": "gw-1", "domain": "energy"}}
    collection = {"type": "FeatureCollection", "features": [feature]}
    assert imported(api, json.dumps(collection).encode(), "application/geo+json").json()["created"] == 1
