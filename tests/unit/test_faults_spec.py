"""Specifications of faults: from code and from scenarios, with every mistake named by its line."""

import pytest

from citybeat.simulator.errors import FaultError, ScenarioError
from citybeat.simulator.faults.kinds import DEVICES, GATEWAYS, VALUES, Fault, FaultSpec, Where, read
from citybeat.simulator.faults.malformed import Form
from citybeat.simulator.scenario import load_scenario
from citybeat.simulator.yamltext import parse


def spec_of(text):
    """The one entry of a list of faults."""
    indented = "\n".join(f"    {line}" for line in text.strip().splitlines())
    keys = parse(f"faults:\n  -\n{indented}\n", origin="day.yaml", failure=ScenarioError)
    return read(keys.sequence("faults")[0])


def test_everything_that_can_be_said():
    spec = spec_of("""
kind: clock
from: 10m
until: 2h
where: {types: [Air station, Noise meter], districts: Hải Cảng, gateways: [gw-01], ids: ["env-*"], share: 0.5}
rate: 0.5
duration: 300
mode: jump
offset: -120
every: 30s
""")
    where = Where(types=("Air station", "Noise meter"), districts=("Hải Cảng",), gateways=("gw-01",), ids=("env-*",), share=0.5)
    assert spec == FaultSpec(
        kind=Fault.CLOCK, from_=600.0, until=7200.0, where=where, rate=0.5, duration=300.0, mode="jump", offset=-120.0, every=30.0
    )
    assert spec_of("{kind: sentinel, code: -999, chance: 0.1}") == FaultSpec(kind=Fault.SENTINEL, code=-999.0, chance=0.1)
    assert spec_of("{kind: reordered, depth: 7, chance: 0.1}").depth == 7
    assert spec_of("{kind: malformed, chance: 1, forms: [truncated, value_text]}").forms == (Form.TRUNCATED, Form.VALUE_TEXT)
    assert spec_of("{kind: spike, rate: 2, magnitude: 5}").magnitude == 5.0


def test_a_mode_that_is_not_said_is_the_first_one():
    assert FaultSpec(kind=Fault.CLOCK, offset=5.0).mode == "fixed"
    assert FaultSpec(kind=Fault.DROPOUT).mode == "null"
    assert FaultSpec(kind=Fault.DUPLICATE).mode == "message"
    assert FaultSpec(kind=Fault.RANGE).mode == ""


def test_every_kind_can_be_had_and_is_of_one_sort():
    needs = {
        Fault.SPIKE: {"chance": 0.1},
        Fault.CLOCK: {"offset": 5.0},
        Fault.FLAP: {"rate": 1.0},
    }
    for kind in Fault:
        spec = FaultSpec(kind=kind, **needs.get(kind, {}))
        assert spec.as_dict()["kind"] == kind.value
        assert (kind in VALUES) + (kind in DEVICES) + (kind in GATEWAYS) + (kind in {Fault.DUPLICATE, Fault.CONFLICT}) == 1


def test_a_dictionary_says_what_was_given():
    spec = FaultSpec(kind=Fault.RANGE, chance=0.5, where=Where(metrics=("pm25",)))
    assert spec.as_dict() == {"kind": "range", "from_": 0.0, "chance": 0.5, "where": {"metrics": ("pm25",)}}


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("kind: melted", "kind", "one of stuck"),
        ("from: 5", "kind", "one of stuck"),
        ("{kind: range, from: -1}", "from", "seconds"),
        ("{kind: range, from: 10, until: 10}", "until", "later"),
        ("{kind: range, chance: 0}", "chance", "above 0"),
        ("{kind: range, chance: 1.5}", "chance", "at most 1"),
        ("{kind: range, chance: 0.5, rate: 1}", "chance", "either"),
        ("{kind: stuck, chance: 0.5}", "chance", "episodes"),
        ("{kind: range, rate: 0}", "rate", "above 0"),
        ("{kind: range, duration: 5}", "duration", "'rate'"),
        ("{kind: range, rate: 2, duration: 1801}", "duration", "at most 1800"),
        ("{kind: reset, rate: 2, duration: 18}", "duration", "has none"),
        ("kind: spike", "kind", "'rate' or 'chance'"),
        ("kind: flap", "kind", "'rate'"),
        ("{kind: late, rate: 1}", "rate", "'duration'"),
        ("{kind: lost, rate: 1}", "rate", "or 'chance'"),
        ("{kind: range, where: {share: 0}}", "where", "share"),
        ("{kind: lost, where: {metrics: [pm25]}}", "where", "metrics"),
        ("{kind: duplicate, where: {types: [Feeder]}}", "where", "types"),
        ("{kind: no_time, where: {metrics: [pm25]}}", "where", "metrics"),
        ("{kind: range, mode: fixed}", "mode", "has none"),
        ("{kind: clock, mode: slow, offset: 5}", "mode", "fixed, drift, jump, restart"),
        ("{kind: range, magnitude: 5}", "magnitude", "has none"),
        ("{kind: spike, rate: 1, magnitude: 1}", "magnitude", "at least 1.8"),
        ("kind: clock", "offset", "seconds"),
        ("{kind: clock, offset: 0}", "offset", "not 0"),
        ("{kind: clock, offset: 400000000}", "offset", "ten years"),
        ("{kind: clock, mode: restart, offset: 3600}", "offset", "has none|off"),
        ("{kind: clock, mode: drift, offset: 30}", "mode", "end"),
        ("{kind: clock, mode: drift, offset: -300, until: 400}", "offset", "half"),
        ("{kind: clock, offset: 5, every: 5}", "every", "jump"),
        ("{kind: range, code: -999}", "code", "has none"),
        ("{kind: range, depth: 3}", "depth", "reordered"),
        ("{kind: reordered, depth: 1.5}", "depth", "whole"),
        ("{kind: range, forms: [deep]}", "forms", "has none"),
        ("{kind: malformed, forms: [odd]}", "forms", "no form 'odd'"),
        ("{kind: range, colour: red}", "colour", "no such key"),
        ("{kind: range, where: {colour: red}}", "where.colour", "no such key"),
        ("{kind: range, chance: often}", "chance", "number"),
    ],
)
def test_mistakes_are_named_with_line_and_key(text, key, words):
    with pytest.raises(ScenarioError, match=words) as caught:
        spec_of(text)
    said = str(caught.value)
    assert said.startswith("day.yaml, line 3: faults[0]"), said
    assert f"faults[0].{key}:" in said or f"faults[0]: {key}" in said or f"'{key}'" in said, said


def test_the_same_mistakes_from_code():
    with pytest.raises(FaultError, match="chance: stuck happens in episodes") as caught:
        FaultSpec(kind=Fault.STUCK, chance=0.5)
    assert caught.value.key == "chance"


SCENARIO = """
name: A bad day
city:
  devices: 20
faults:
  - {{kind: spike, rate: 1}}
  - kind: range
    where: {{{where}}}
"""


def test_faults_of_a_scenario_and_what_the_city_does_not_have():
    good = load_scenario(
        SCENARIO.format(where="metrics: [pm25], types: [Air station], gateways: [gw-01], districts: [Ngô Mây]"), "x"
    )
    assert [fault.kind for fault in good.faults] == [Fault.SPIKE, Fault.RANGE]
    for where, name in (("metrics: [pm26]", "pm26"), ("types: [Toaster]", "Toaster"), ("gateways: [gw-99]", "gw-99")):
        with pytest.raises(ScenarioError, match=rf"day.yaml, line 8: faults\[1\].where: .*'{name}'"):
            load_scenario(SCENARIO.format(where=where), "day.yaml")
