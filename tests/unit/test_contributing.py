"""The examples of CONTRIBUTING.md, used as it says."""

import asyncio
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from pydantic import create_model

from citybeat.api.http import models
from citybeat.dashboards import boards
from citybeat.dashboards.board import Context
from citybeat.dashboards.texts import Texts
from citybeat.devices import batch, errors, flags
from citybeat.devices.catalogue import Kind, builtin, extended
from citybeat.devices.errors import Reason
from citybeat.devices.flags import Flag
from citybeat.devices.wire import decoded, names
from citybeat.ingest.judging import decode
from citybeat.ingest.judging.message import Message
from citybeat.storage.db import schema_version

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")
#: Modules that the example of a wire format imports, by the last part of their names.
IMPORTED = {module.__name__.rsplit(".", 1)[-1]: module.__name__ for module in (batch, decoded, errors, flags, names)}

NOW = 1_767_225_600_000_000
WORDS = st.sampled_from(
    ["pm25=1", "pm25=nan", "pm25=x", "ts=1", "ts=now", "ts=" + "9" * 5_000, "device=d", "a=b=c", "=", "x", "\n"]
)
PAYLOADS = st.one_of(st.binary(max_size=20), st.lists(WORDS).map(lambda words: " ".join(words).encode()))


def example(kind: str, section: str) -> str:
    """The first block of this kind behind the heading of a section."""
    found = re.search(rf"^### {section}$.*?^ *```{kind}\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL)
    assert found
    return textwrap.dedent(found[1])


def keyvalue(payloads: list[bytes]) -> Any:
    code = re.sub(r"(?<=^from )citybeat\.devices\.[\w.]*?(\w+)(?= import)", lambda m: IMPORTED[m[1]], CODE, flags=re.MULTILINE)
    module: dict[str, Any] = {}
    exec(code, module)
    return module["decode"](payloads, ["gw"] * len(payloads), np.full(len(payloads), NOW, np.int64))


CODE = example("python", "A wire format")


def test_the_wire_format_reads_what_it_says():
    read = keyvalue([b"device=env-1 ts=1767225600000 pm25=12.3 temperature=x\npm10=4\n", b"\xff", b"device=env-1"])
    assert (read.device, read.metric, read.value.tolist()) == (["env-1", "gw"], ["pm25", "pm10"], [12.3, 4.0])
    assert (read.time.tolist(), read.flags.tolist()) == ([NOW, NOW], [0, Flag.CLOCK])
    assert read.received.tolist() == [3, 0, 0]
    assert [(each.message, each.index, each.reason) for each in read.refused] == [
        (0, 1, Reason.NOT_A_NUMBER),
        (1, None, Reason.MALFORMED),
        (2, None, Reason.EMPTY),
    ]


def test_a_message_of_the_wire_format_becomes_columns(monkeypatch):
    def read(payloads, _sources, _received_at):
        return keyvalue(payloads)

    monkeypatch.setattr(decode, "FORMATS", {**decode.FORMATS, "keyvalue": read})
    payload = b"device=env-1 pm25=12.3 temperature=20"
    message = Message("city/v1/gw/keyvalue", payload, received_at=NOW, redelivered=False, qos=1, mid=1, epoch=0)
    columns = decode.decode([message], max_bytes=1000).decoded
    assert (columns.device, columns.metric, columns.value.tolist()) == (["env-1"] * 2, ["pm25", "temperature"], [12.3, 20.0])
    assert not columns.refused


@given(st.lists(PAYLOADS, max_size=4))
def test_the_wire_format_accounts_for_every_reading(payloads):
    read = keyvalue(payloads)
    assert read.received.sum() == len(read.value) + sum(each.index is not None for each in read.refused)


def test_the_route_is_described_and_answers(monkeypatch):
    monkeypatch.setattr(models, "KindsModel", create_model("KindsModel", kinds=(list[dict[str, Any]], ...)), raising=False)
    module: dict[str, Any] = {}
    exec(example("python", "A route"), module)
    app = FastAPI()
    app.include_router(module["router"])
    described = app.openapi()["paths"]["/v1/kinds"]["get"]
    assert described["responses"]["200"]["content"]["application/json"]["example"] == module["_EXAMPLE"]
    kinds = json.loads(asyncio.run(module["kinds"](None)).body)["kinds"]
    assert {kind["name"] for kind in kinds} == set(Kind)
    assert all(kind["aggregates"] for kind in kinds)


def test_the_metric_appears_on_its_dashboard():
    catalogue = extended(example("toml", "A metric"), origin="CONTRIBUTING.md")
    assert catalogue.keys() - builtin().keys() == {"uvIndex"}
    made = boards.build(Context(catalogue=catalogue, words=Texts("vi")))
    assert "Chỉ số UV" in str(made["environment"])


def test_migrations_are_named_as_the_page_on_migrations_says():
    scripts = schema_version.migrations()
    for script in scripts:
        assert re.fullmatch(rf"migrations/{script.number:04}_[a-z0-9_]+\.sql", script.file)
    page = (Path(__file__).parents[2] / "docs/migrations.md").read_text("utf-8")
    assert f"`storage/migrations/{scripts[-1].number + 1:04}_noun.sql`" in page


def test_tests_that_the_page_names_exist():
    named = set(re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)`", TEXT)) - {"test_keyvalue.py"}
    assert len(named) > 10
    assert named <= {path.name for path in Path(__file__).parents[1].rglob("test_*.py")}
    cases = set(re.findall(r"`(test_\w+)`", TEXT))
    text = "".join(path.read_text("utf-8") for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert all(f"def {case}(" in text for case in cases)
