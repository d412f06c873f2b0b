"""Generated and shipped files against the JSON schemas of their makers, where these lie beside the checkout."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from citybeat.dashboards import boards
from citybeat.dashboards.board import Context
from citybeat.dashboards.texts import LANGUAGES, Texts
from citybeat.devices.catalogue import builtin

CHECKOUT = Path(__file__).parents[2]
SCHEMAS = CHECKOUT.parent / "shared" / "schemas"

pytestmark = [pytest.mark.shared, pytest.mark.skipif(not SCHEMAS.is_dir(), reason="the schemas are not beside this checkout")]


@pytest.mark.parametrize(("language", "prometheus"), [*((language, None) for language in LANGUAGES), ("en", "prom")])
def test_dashboards_are_valid_for_grafana(language, prometheus):
    schema = json.loads((SCHEMAS / "grafana-dashboard.schema.json").read_text("utf-8"))
    # "Any value" in Grafana's own definitions became "any object" in this schema; a name to match is no object.
    for definition, anything in (("MatcherConfig", "options"), ("DynamicConfigValue", "value")):
        assert schema["definitions"][definition]["properties"][anything]["type"] == "object"
        schema["definitions"][definition]["properties"][anything] = {}
    validator = jsonschema.Draft7Validator(schema)
    for name, made in boards.build(Context(catalogue=builtin(), words=Texts(language), prometheus=prometheus)).items():
        found = [f"{list(error.absolute_path)}: {error.message[:200]}" for error in validator.iter_errors(made)]
        assert found == [], name


def test_the_compose_file_is_valid():
    # The draft is named here, because the schema names it with http and the library knows it with https.
    schema = json.loads((SCHEMAS / "compose-spec.schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load((CHECKOUT / "compose.yaml").read_text()))
