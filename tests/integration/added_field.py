"""Run by test_device_fields.py in a copy of the checkout whose devices have the field `height` too: every way in and out has it."""

import asyncio
import csv
import io
import sys
from contextlib import closing
from pathlib import Path

import httpx
from typer.testing import CliRunner

from citybeat.api.app import create_app
from citybeat.api.http.gate import EVERYTHING
from citybeat.cli import app as commands
from citybeat.devices.catalogue import builtin
from citybeat.storage import migrate
from citybeat.storage.db.connection import connect

GEOJSON = {"accept": "application/geo+json"}
CSV = {"content-type": "text/csv"}


async def main(database):
    with closing(connect(database, application="test")) as connection:
        assert [name[4:] for name in migrate.migrate(connection, builtin(), chunk_days={})] == ["_height"]
    env = {"CITYBEAT_DATABASE_URL": database, "CITYBEAT_MQTT_URL": "mqtt://127.0.0.1:1", "CITYBEAT_HOME": str(Path.cwd())}
    words = ["devices", "add", "env-1", "--source", "gw-1", "--domain", "environment", "--metric", "pm25", "--height", "2.5"]
    made = await asyncio.to_thread(CliRunner().invoke, commands, words, env=env)
    assert made.exit_code == 0, made.output
    app = create_app(database_url=database, catalogue=builtin(), anonymous=EVERYTHING, rate=6_000)
    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://citybeat.test") as api:
        await through_the_api(api)


async def through_the_api(api):
    body = {"id": "env-2", "source": "gw-1", "domain": "environment", "height": 4.0}
    made = await api.post("/v1/devices", json=body)
    assert (made.status_code, made.json()["height"]) == (201, 4.0), made.text
    assert (await api.post("/v1/devices", json=body | {"id": "env-3", "height": 1001})).status_code == 422

    listed = (await api.get("/v1/devices")).json()["devices"]
    assert {device["id"]: device["height"] for device in listed} == {"env-1": 2.5, "env-2": 4.0}
    features = (await api.get("/v1/devices", headers=GEOJSON)).json()["features"]
    assert [feature["properties"]["height"] for feature in features] == [2.5, 4.0]

    changed = await api.patch("/v1/devices/env-2", json={"height": None})
    assert (changed.status_code, changed.json()["height"]) == (200, None)
    assert (await api.patch("/v1/devices/env-2", json={"height": 3.0})).json()["height"] == 3.0
    changes = (await api.get("/v1/devices/env-2/history")).json()["changes"]
    assert [(change["after"] or {}).get("height") for change in changes] == [3.0, None, 4.0]

    written = (await api.get("/v1/devices", headers={"accept": "text/csv"})).text
    rows = list(csv.DictReader(io.StringIO(written)))
    assert [row["height"] for row in rows] == ["2.5", "3.0"]
    again = await api.post("/v1/registry/import", content=written, headers=CSV)
    assert again.json()["unchanged"] == 2, again.text
    other = await api.post("/v1/registry/import", content=written.replace("2.5", "12.5"), headers=CSV)
    assert (other.json()["changed"], other.json()["unchanged"]) == (1, 1), other.text
    assert (await api.get("/v1/devices/env-1")).json()["height"] == 12.5

    schemas = (await api.get("/openapi.json")).json()["components"]["schemas"]
    having = [name for name, schema in schemas.items() if "height" in schema.get("properties", {})]
    assert sorted(having) == ["DeviceBody", "DeviceDetailModel", "DeviceModel", "DevicePatch", "DevicePropertiesModel"]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
