"""Files that other programs read, against the schemas that their makers publish."""

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
BUILT = {
    (language, *source.values(), name): made
    for language in LANGUAGES
    for source in ({}, {"prometheus": "prom"})
    for name, made in boards.build(Context(catalogue=builtin(), words=Texts(language), **source)).items()
}

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SCHEMAS.is_dir(), reason="the schemas are not part of the checkout"),
]


@pytest.mark.parametrize("which", BUILT, ids=" ".join)
def test_a_dashboard_is_what_grafana_says_it_is(which):
    schema = json.loads((SCHEMAS / "grafana-dashboard.schema.json").read_text("utf-8"))
    # "Any value" in Grafana's own definitions became "any object" in this schema; a name to match is no object.
    for definition, anything in (("MatcherConfig", "options"), ("DynamicConfigValue", "value")):
        assert schema["definitions"][definition]["properties"][anything]["type"] == "object"
        schema["definitions"][definition]["properties"][anything] = {}
    validator = jsonschema.Draft7Validator(schema)
    assert [f"{list(error.absolute_path)}: {error.message[:200]}" for error in validator.iter_errors(BUILT[which])] == []


def test_the_compose_file_is_what_compose_says_it_is():
    # Named, because the schema names its draft with http where the library knows it with https.
    validator = jsonschema.Draft7Validator(json.loads((SCHEMAS / "compose-spec.schema.json").read_text("utf-8")))
    validator.validate(yaml.safe_load((CHECKOUT / "compose.yaml").read_text("utf-8")))
