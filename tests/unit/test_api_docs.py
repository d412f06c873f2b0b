"""The documentation: complete, and served by ourselves alone."""

import asyncio
import re

import httpx
import pytest

from citybeat.api.app import create_app
from citybeat.api.files import descriptions, uploads
from citybeat.api.files.imports import Form
from citybeat.api.http import models
from citybeat.api.http.openapi import ProblemDetails
from citybeat.api.http.pages import GEOJSON
from citybeat.api.http.problems import MEDIA_TYPE
from citybeat.api.routes import ingest
from citybeat.api.routes.quarantine import ReplayBody
from citybeat.api.routes.telemetry import QueryBody
from citybeat.devices.catalogue import builtin

#: What each route answers when all is well: the status, and the model of its JSON, or the kinds of its files; None: nothing.
ANSWERS = {
    "GET /healthz": (200, models.HealthModel),
    "GET /readyz": (200, models.HealthModel),
    "GET /v1/catalogue": (200, models.CatalogueModel),
    "GET /v1/devices": (200, models.DevicesModel),
    "POST /v1/devices": (201, models.DeviceDetailModel),
    "POST /v1/registry/import": (200, models.ImportedModel),
    "GET /v1/devices/{device}": (200, models.DeviceDetailModel),
    "PATCH /v1/devices/{device}": (200, models.DeviceDetailModel),
    "DELETE /v1/devices/{device}": (204, None),
    "GET /v1/devices/{device}/history": (200, models.HistoryModel),
    "PUT /v1/devices/{device}/sensors/{metric}": (200, models.DeviceDetailModel),
    "DELETE /v1/devices/{device}/sensors/{metric}": (204, None),
    "POST /v1/devices/{device}/sensors/{metric}/calibrations": (201, models.DeviceDetailModel),
    "GET /v1/sources": (200, models.SourcesModel),
    "PATCH /v1/sources/{source}": (200, models.SourceModel),
    "GET /v1/latest": (200, models.LatestModel),
    "GET /v1/states": (200, models.StatesModel),
    "GET /v1/stream": (200, {"text/event-stream"}),
    "GET /v1/series": (200, models.SeriesModel),
    "POST /v1/query": (200, models.QueryModel),
    "GET /v1/readings": (200, models.ReadingsModel),
    "POST /v1/readings": (200, models.PostedModel),
    "GET /v1/readings/nearest": (200, models.NearestModel),
    "GET /v1/export": (200, {"text/csv", "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"}),
    "GET /v1/ledger": (200, models.LedgerModel),
    "GET /v1/quarantine": (200, models.QuarantineModel),
    "GET /v1/quarantine/{id}": (200, models.QuarantinedDetailModel),
    "POST /v1/quarantine/replay": (200, models.ReplayedModel),
    "GET /v1/liveness": (200, models.LivenessModel),
}
#: Bodies that are JSON, and what they must be.
BODIES = {
    "POST /v1/devices": descriptions.DeviceBody,
    "PATCH /v1/devices/{device}": descriptions.DevicePatch,
    "PUT /v1/devices/{device}/sensors/{metric}": descriptions.OverridesBody,
    "POST /v1/devices/{device}/sensors/{metric}/calibrations": descriptions.CalibrationBody,
    "PATCH /v1/sources/{source}": descriptions.SourcePatch,
    "POST /v1/query": QueryBody,
    "POST /v1/quarantine/replay": ReplayBody,
}
#: Bodies of several forms.
FORMS = {"POST /v1/registry/import": set(Form), "POST /v1/readings": {*ingest.CHANNELS, *uploads.READERS}}
#: What else an answer can be, if it is asked for so.
OTHERS = {
    "/v1/latest": {GEOJSON: models.LatestFeaturesModel},
    "/v1/states": {GEOJSON: models.StatesFeaturesModel},
    "/v1/devices": {GEOJSON: models.DeviceFeaturesModel, "text/csv": None},
}


@pytest.fixture(scope="module")
def app():
    # Never asked for data, so the database need not exist.
    return create_app(database_url="postgresql://nobody@127.0.0.1:1/none", catalogue=builtin(), rate=6_000, version="1.2.3")


def get(app, *urls):
    async def send():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://citybeat.test") as client:
            return [await client.get(url) for url in urls]

    return asyncio.run(send())


def test_the_page_and_its_assets_come_from_us(app):
    (page,) = get(app, "/docs")
    assert page.status_code == 200
    assert not re.findall(r"""(?:src|href|url)\s*[=:]\s*["'](?:https?:)?//""", page.text)
    assert "http://" not in page.text
    assert "https://" not in page.text
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(assets) >= 3  # script, style, icon
    for asset in get(app, *assets, "/openapi.json"):
        assert asset.status_code == 200
        assert asset.content


def test_the_page_asks_no_validator(app):
    assert '"validatorUrl": null' in get(app, "/docs")[0].text


def operations(app):
    document = get(app, "/openapi.json")[0].json()
    assert document["info"]["version"] == "1.2.3"
    return {f"{method.upper()} {path}": each for path, methods in document["paths"].items() for method, each in methods.items()}


def test_every_route_is_listed_here(app):
    assert set(operations(app)) == set(ANSWERS)


@pytest.mark.parametrize("route", ANSWERS)
def test_every_route_is_described_with_examples(app, route):
    operation = operations(app)[route]
    assert len(operation["description"]) > 20
    status, form = ANSWERS[route]
    content = operation["responses"][str(status)].get("content", {})
    if form is None:
        assert content == {}
    elif isinstance(form, set):
        assert set(content) == form
    else:
        described = content["application/json"]
        assert described["schema"]["$ref"].endswith(form.__name__)
        examples = [described["example"]] if "example" in described else [each["value"] for each in described["examples"].values()]
        for example in examples:
            form.model_validate(example)
    for parameter in operation.get("parameters", []):
        assert parameter.get("description"), parameter["name"]
    if route in BODIES:
        described = operation["requestBody"]["content"]["application/json"]
        for example in described.get("examples", {}).values():
            BODIES[route].model_validate(example["value"])
    if route in FORMS:
        assert set(operation["requestBody"]["content"]) == FORMS[route]
    assert ("requestBody" in operation) == (route in BODIES or route in FORMS)
    statuses = set(operation["responses"])
    assert "500" in statuses
    assert ("422" in statuses) == bool(operation.get("parameters") or "requestBody" in operation)
    assert ("413" in statuses) == ("requestBody" in operation)
    assert ("503" in statuses) == (route != "GET /healthz")
    guarded = " /v1/" in route
    assert ({"401", "403", "429"} <= statuses) == guarded
    assert bool(operation.get("security")) == guarded
    for other in statuses - {str(status)}:
        (kind, body), *others = operation["responses"][other]["content"].items()
        assert (kind, others) == (MEDIA_TYPE, [])
        assert body["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}
        assert ProblemDetails.model_validate(body["example"]).status == int(other)


@pytest.mark.parametrize("path", OTHERS)
def test_other_forms_are_described_too(app, path):
    content = operations(app)[f"GET {path}"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", *OTHERS[path]}
    for kind, model in OTHERS[path].items():
        if model is not None:
            model.model_validate(content[kind]["example"])
            assert content[kind]["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}


def test_every_reference_leads_somewhere(app):
    text = get(app, "/openapi.json")[0].text
    schemas = set(get(app, "/openapi.json")[0].json()["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= schemas
    assert "HTTPValidationError" not in schemas
