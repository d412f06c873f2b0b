"""The documentation: complete, and served by ourselves alone."""

import asyncio
import re

import httpx
import pytest

from api import models, posting, uploads
from api.answers import GEOJSON
from api.app import create_app
from api.problems import MEDIA_TYPE, ProblemDetails
from api.quarantine import ReplayBody
from api.telemetry import QueryBody
from devices.catalogue import builtin

MODELS = {
    "/healthz": models.HealthModel,
    "/readyz": models.HealthModel,
    "/v1/catalogue": models.CatalogueModel,
    "/v1/devices": models.DevicesModel,
    "/v1/devices/{device}": models.DeviceDetailModel,
    "/v1/latest": models.LatestModel,
    "/v1/states": models.StatesModel,
    "/v1/series": models.SeriesModel,
    "/v1/query": models.QueryModel,
    "/v1/readings": models.ReadingsModel,
    "/v1/readings/nearest": models.NearestModel,
    "/v1/ledger": models.LedgerModel,
    "/v1/quarantine": models.QuarantineModel,
    "/v1/quarantine/{id}": models.QuarantinedDetailModel,
    "/v1/quarantine/replay": models.ReplayedModel,
    "/v1/liveness": models.LivenessModel,
}
#: Routes whose answers are files, or events.
FILES = {
    "/v1/export": {"text/csv", "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"},
    "/v1/stream": {"text/event-stream"},
}
#: Routes that are asked by POST.
BODIES = {"/v1/query": QueryBody, "/v1/quarantine/replay": ReplayBody}
#: What is posted to a route that is asked, too: what the answer looks like.
POSTED = {"/v1/readings": models.PostedModel}


@pytest.fixture(scope="module")
def app():
    # Never asked for data, so the database need not exist.
    return create_app(database_url="postgresql://nobody@127.0.0.1:1/none", catalogue=builtin(), version="1.2.3")


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


def test_every_route_is_described_with_examples(app):
    document = get(app, "/openapi.json")[0].json()
    assert document["info"]["version"] == "1.2.3"
    assert set(document["paths"]) == set(MODELS) | set(FILES)
    for path, operations in document["paths"].items():
        if path in POSTED:
            posted = operations.pop("post")
            (content,) = posted["responses"]["200"]["content"].values()
            POSTED[path].model_validate(content["example"])
            assert {"401", "403", "404", "409", "413", "415", "422", "503"} <= set(posted["responses"])
            assert {*posting.CHANNELS, *uploads.READERS} == set(posted["requestBody"]["content"])
        assert set(operations) == ({"post"} if path in BODIES else {"get"})
        (operation,) = operations.values()
        assert len(operation["description"]) > 20, path
        if path in FILES:
            assert set(operation["responses"]["200"]["content"]) == FILES[path]
        else:
            content = operation["responses"]["200"]["content"]["application/json"]
            assert content["schema"]["$ref"].endswith(MODELS[path].__name__)
            examples = [content["example"]] if "example" in content else [entry["value"] for entry in content["examples"].values()]
            for example in examples:
                MODELS[path].model_validate(example)
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (path, parameter["name"])
        statuses = set(operation["responses"])
        assert "500" in statuses
        assert ("422" in statuses) == bool(operation.get("parameters") or path in BODIES), path
        if path in BODIES:
            for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
                BODIES[path].model_validate(example["value"])
        assert ("503" in statuses) == (path != "/healthz")
        guarded = path.startswith("/v1/")
        assert ({"401", "403", "429"} <= statuses) == guarded, path
        assert bool(operation.get("security")) == guarded, path
        for status in statuses - {"200"}:
            (kind, body), *others = operation["responses"][status]["content"].items()
            assert (kind, others) == (MEDIA_TYPE, [])
            assert body["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}
            assert ProblemDetails.model_validate(body["example"]).status == int(status)


@pytest.mark.parametrize(
    ("path", "model"), [("/v1/latest", models.LatestFeaturesModel), ("/v1/states", models.StatesFeaturesModel)]
)
def test_geojson_is_described_too(app, path, model):
    operation = get(app, "/openapi.json")[0].json()["paths"][path]["get"]
    content = operation["responses"]["200"]["content"][GEOJSON]
    model.model_validate(content["example"])
    assert content["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}


def test_every_reference_leads_somewhere(app):
    text = get(app, "/openapi.json")[0].text
    schemas = set(get(app, "/openapi.json")[0].json()["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= schemas
    assert "HTTPValidationError" not in schemas
