"""The public interface as data: HTTP, command line, settings and metrics, without their wording.

`tests/public_interface_0.1.0.json` is that of version 0.1.0. Tests compare today's with it; a difference stands in CHANGELOG.md and
in `CHANGES` of the test.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from prometheus_client.parser import text_string_to_metric_families

from citybeat.api.app import create_app
from citybeat.cli import app
from citybeat.devices.catalogue import builtin
from citybeat.settings import Settings

VERSION_0_1_0 = Path(__file__).parent / "public_interface_0.1.0.json"
#: Keys of an OpenAPI document that only say something to people.
_WORDING = {"description", "summary", "example", "examples", "title"}


def http() -> Any:
    """Paths, parameters and schemas of the OpenAPI document."""
    service = create_app(database_url="postgresql://nobody@127.0.0.1:1/none", catalogue=builtin(), rate=1, version="0")
    document = service.openapi()
    return {"paths": _without_wording(document["paths"]), "schemas": _named(document["components"]["schemas"])}


def command_line() -> dict[str, list[str]]:
    """Options and arguments of each command, with their defaults."""
    return dict(_commands(typer.main.get_command(app), "citybeat"))


def settings() -> dict[str, str]:
    """The default of each setting."""
    return {
        f"CITYBEAT_{name.upper()}": repr(field.get_default(call_default_factory=True))
        for name, field in Settings.model_fields.items()
    }


def metrics(*expositions: str) -> dict[str, list[str]]:
    """Type and labels of each metric in what servers show."""
    found: dict[tuple[str, str], set[str]] = {}
    for text in expositions:
        for family in text_string_to_metric_families(text):
            labels = found.setdefault((family.name, family.type), set())
            labels.update(label for sample in family.samples for label in sample.labels)
    return {name: [kind, *sorted(labels)] for (name, kind), labels in sorted(found.items())}


def version_0_1_0() -> dict[str, Any]:
    """The interface as it was."""
    return json.loads(VERSION_0_1_0.read_text("utf-8"))


def flat(tree: Any, at: str = "") -> dict[str, Any]:
    """Leaves of nested objects by their path, so that a difference says where it is."""
    if isinstance(tree, dict) and tree:
        return {path: leaf for key, value in tree.items() for path, leaf in flat(value, f"{at}/{key}").items()}
    return {
        at: sorted(tree) if isinstance(tree, list) and at.endswith("/required") else tree
    }  # the order of required members means nothing


def _commands(command: Any, name: str) -> Iterable[tuple[str, list[str]]]:
    own = [f"{' '.join((*p.opts, *p.secondary_opts))} = {p.default!r}" for p in command.params if p.name != "help"]
    yield name, sorted(own)
    if hasattr(command, "list_commands"):
        for inner in command.list_commands(None):
            yield from _commands(command.get_command(None, inner), f"{name} {inner}")


def _named(schemas: dict[str, Any]) -> Any:
    return {name: _without_wording(schema) for name, schema in schemas.items()}


def _without_wording(tree: Any) -> Any:
    """`properties` are named by us, so that a property `title` stays."""
    if isinstance(tree, dict):
        return {
            key: _named(value) if key == "properties" else _without_wording(value)
            for key, value in tree.items()
            if key not in _WORDING
        }
    return [_without_wording(value) for value in tree] if isinstance(tree, list) else tree
