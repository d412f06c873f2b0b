"""Dashboards as they are built: nothing overlaps, nothing is empty, nothing is untranslated."""

import itertools
import json
import re
import string
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from citybeat.dashboards import alerts, boards, files
from citybeat.dashboards.board import Context, uid
from citybeat.dashboards.boards import BOARDS
from citybeat.dashboards.datasource import Database
from citybeat.dashboards.texts import LANGUAGES, TEXTS, Texts
from citybeat.devices.catalogue import Metric, builtin, extended

#: Read the same in both languages: names, and what is written so everywhere.
SAME = {"environment.aqi", "ingest.slow"}


class Marked(Texts):
    """Texts that can be told from what stands in the code."""

    def __init__(self) -> None:
        super().__init__("en")

    def __call__(self, key: str, **values: Any) -> str:
        assert key in TEXTS
        return "⟦" + super().__call__(key, **values) + "⟧"

    def metric(self, metric: Metric) -> str:
        return "⟦" + super().metric(metric) + "⟧"


def built(language: str = "en", **options: Any) -> dict[str, dict[str, Any]]:
    return boards.build(Context(**{"catalogue": builtin(), "words": Texts(language), **options}))


BUILT = {(language, name): made for language in LANGUAGES for name, made in built(language).items()} | {
    ("prometheus", name): made for name, made in built(prometheus="prom").items()
}


@pytest.fixture(params=BUILT, ids=" ".join)
def made(request: pytest.FixtureRequest) -> dict[str, Any]:
    return BUILT[request.param]


def data_panels(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in made["panels"] if panel["type"] != "row"]


def test_panels_do_not_overlap_and_keep_to_the_grid(made):
    places = [panel["gridPos"] for panel in made["panels"]]
    for place in places:
        assert place["x"] >= 0
        assert place["w"] > 0
        assert place["h"] > 0
        assert place["x"] + place["w"] <= 24
    for a, b in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart, (a, b)


def test_no_line_of_the_grid_is_left_out(made):
    covered = {y for p in made["panels"] for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])}
    assert covered == set(range(max(covered) + 1))


def test_no_panel_is_empty_and_ids_are_its_own(made):
    ids = [panel["id"] for panel in made["panels"]]
    assert len(set(ids)) == len(ids)
    assert len(data_panels(made)) >= 5
    for panel in data_panels(made):
        assert panel["title"]
        if panel["type"] == "text":
            assert panel["options"]["content"]
        else:
            assert panel["fieldConfig"]["defaults"]["noValue"]
            for target in panel["targets"]:
                assert target.get("rawSql") or target.get("expr")
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs)


def test_identities_are_stable_and_no_number_is_made_up(made):
    assert made["uid"] in {uid(name) for name in BOARDS}
    assert "id" not in made
    assert made["timezone"] == "Asia/Ho_Chi_Minh"


def statements(made: dict[str, Any]) -> Iterator[str]:
    for panel in data_panels(made):
        yield from (target["rawSql"] for target in panel.get("targets", ()) if "rawSql" in target)
    yield from (v["query"] for v in made["templating"]["list"] if v["type"] == "query")
    yield from (a["target"]["rawSql"] for a in made["annotations"].get("list", ()))


def test_queries_use_variables_that_are_there_and_macros_that_grafana_knows(made):
    variables = {variable["name"] for variable in made["templating"]["list"]}
    for sql in statements(made):
        named = re.findall(r"\$\{(\w+):sqlstring\}", sql)
        assert set(named) <= variables
        rest = re.sub(r"\$\{\w+:sqlstring\}|\$__time(From|To)\(\)|\$__interval_ms", "", sql)
        assert "$" not in rest


def test_every_variable_is_used(made):
    used = {name for sql in statements(made) for name in re.findall(r"\$\{(\w+):sqlstring\}", sql)}
    assert {variable["name"] for variable in made["templating"]["list"]} == used


def test_links_lead_to_dashboards_and_variables_that_are_there(made):
    there = {board["uid"]: {v["name"] for v in board["templating"]["list"]} for board in built().values()}
    found = re.findall(r'"url": "/d/([\w-]+)\?([^"]*)"', json.dumps(made))
    if made["uid"] != uid("ingest"):
        assert found
    for target, query in found:
        assert target in there
        assert set(re.findall(r"var-(\w+)=", query)) <= there[target]
        assert query.endswith("${__url_time_range}")


#: Where people read, by key of the JSON.
READ = {"title", "description", "label", "text", "noValue", "content", "tooltip", "axisLabel", "name"}


def texts_of(thing: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(thing, dict):
        if thing.get("id") == "displayName":
            yield f"{path}.displayName", thing["value"]
        for key, value in thing.items():
            if key in READ and isinstance(value, str) and not path.endswith((".basemap", ".list")):
                yield f"{path}.{key}", value
            yield from texts_of(value, f"{path}.{key}")
    elif isinstance(thing, list):
        for value in thing:
            yield from texts_of(value, path)


@pytest.mark.parametrize("prometheus", [None, "prom"])
@pytest.mark.parametrize("name", BOARDS)
def test_no_text_stands_in_the_code(name, prometheus):
    context = Context(catalogue=builtin(), words=Marked(), prometheus=prometheus)
    made = BOARDS[name](context)
    untranslated = {(path, text) for path, text in texts_of(made) if text and "⟦" not in text}
    untranslated -= {pair for pair in untranslated if pair[1].startswith("${")}  # filled in by Grafana
    untranslated -= {pair for pair in untranslated if pair[1] in {"VN_AQI", "QCVN 05:2023", "Asia/Ho_Chi_Minh", "UTC", "citybeat"}}
    assert untranslated == set()
    assert len(list(texts_of(made))) > 20
    for variable in made["templating"]["list"]:
        assert "⟦" in variable["label"]
    for annotation in made["annotations"].get("list", ()):
        assert "⟦" in annotation["name"]
        assert "⟦" in annotation["target"]["rawSql"]


@pytest.mark.parametrize("key", TEXTS)
def test_every_text_is_there_in_both_languages_with_the_same_blanks(key):
    english, vietnamese = TEXTS[key]
    assert english.strip()
    assert vietnamese.strip()
    assert (english == vietnamese) == (key in SAME)
    blanks = [sorted(field for _, field, _, _ in string.Formatter().parse(text) if field) for text in (english, vietnamese)]
    assert blanks[0] == blanks[1]
    assert english.count("%s") == vietnamese.count("%s")


def test_every_text_is_used():
    asked: set[str] = set()

    class Noted(Texts):
        def __call__(self, key: str, **values: Any) -> str:
            asked.add(key)
            return super().__call__(key, **values)

    for prometheus in (None, "prom"):
        files.contents(Context(catalogue=builtin(), words=Noted("en"), prometheus=prometheus), Database())
    assert asked == set(TEXTS)


def test_shipped_metrics_have_names_in_both_languages():
    assert all(metric.label and metric.label_vi for metric in builtin().values())


def test_a_new_metric_appears_with_its_unit_and_colour():
    own = '[pollen]\ndomain = "environment"\nunit = "{grains}/m3"\nkind = "gauge"\n'
    own += 'label = "Pollen"\nlabel_vi = "Phấn hoa"\ncolor = "#123456"\n'
    catalogue = extended(own, origin="t")
    made = boards.build(Context(catalogue=catalogue, words=Texts("vi")))
    panel = next(panel for panel in data_panels(made["environment"]) if panel["title"] == "Phấn hoa")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"] == "suffix: {grains}/m3"
    assert defaults["color"]["fixedColor"] == "#123456"
    assert "'pollen'" in panel["targets"][0]["rawSql"]
    assert "pollen" in json.dumps(made["sensor"])
    assert "pollen" in json.dumps(made["city"])


def test_units_decimals_and_limits_come_from_the_catalogue():
    panels = {panel["title"]: panel for panel in data_panels(BUILT["en", "environment"])}
    assert panels["PM2.5"]["fieldConfig"]["defaults"]["unit"] == "conμgm3"
    assert panels["Carbon monoxide CO"]["fieldConfig"]["defaults"]["decimals"] == 2
    assert panels["Relative humidity"]["fieldConfig"]["defaults"]["unit"] == "percentunit"
    assert len(panels["PM2.5"]["targets"]) == 2
    assert len(panels["Temperature"]["targets"]) == 1


def test_files_are_replaced_and_say_the_same_each_time(tmp_path):
    context = Context(catalogue=builtin(), words=Texts("vi"))
    first = {path: path.read_text("utf-8") for path in files.write(tmp_path, context, Database())}
    assert {path: path.read_text("utf-8") for path in files.write(tmp_path, context, Database())} == first
    assert set(tmp_path.rglob("*.json")) == {path for path in first if path.suffix == ".json"}
    (tmp_path / "blocked").write_text("")
    with pytest.raises(files.DashboardsError, match="blocked"):
        files.write(tmp_path / "blocked", context, Database())


@pytest.mark.parametrize("prometheus", [None, "prom"])
def test_alert_rules_say_what_to_do_in_both_languages(prometheus):
    for language in LANGUAGES:
        context = Context(catalogue=builtin(), words=Texts(language), prometheus=prometheus, contact="ops@example.org")
        made = alerts.group(context)
        uids = [rule["uid"] for rule in made]
        assert len(set(uids)) == len(uids) == (7 if prometheus else 5)
        for rule in made:
            assert len(rule["uid"]) <= 40
            assert rule["annotations"]["summary"]
            assert len(rule["annotations"]["description"]) > 60
            assert rule["notification_settings"] == {"receiver": alerts.CONTACT}
            assert {query["refId"] for query in rule["data"]} == {"A", rule["condition"]}
            asked = rule["data"][0]["model"].get("rawSql", "")
            # Every label that the summary names is a column.
            for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
                assert re.search(rf"\b{label}\b", asked), label
    for rule in alerts.group(Context(catalogue=builtin(), words=Marked())):
        assert all("⟦" in text for text in (rule["title"], *rule["annotations"].values()))


def test_every_alert_rule_is_there():
    made = {rule["uid"] for rule in alerts.group(Context(catalogue=builtin(), words=Texts("en"), prometheus="prom"))}
    assert made == {f"citybeat-alert-{name}" for name in ("limit", "overdue", "ledger", "lag", "commit", "spool", "quarantine")}


def test_provisioning_names_its_own_files_and_no_secret(tmp_path):
    context = Context(catalogue=builtin(), words=Texts("vi"), contact="https://example.org/$hook")
    made = files.contents(context, Database(), mount="/mnt")
    provider = yaml.safe_load(made["dashboards/citybeat.yaml"])["providers"][0]
    assert provider["options"]["path"] == f"/mnt/{files.JSON}"
    source = yaml.safe_load(made["datasources/citybeat.yaml"])["datasources"][0]
    assert source["secureJsonData"] == {"password": "$GRAFANA_DB_PASSWORD"}
    assert source["jsonData"]["timescaledb"] is True
    alerting = yaml.safe_load(made["alerting/citybeat.yaml"])
    assert alerting["contactPoints"][0]["receivers"][0]["settings"]["url"] == "https://example.org/$$hook"
    # Grafana fills in its environment everywhere but in annotations, whose templates have dollars of their own.
    rules = alerting["groups"][0]["rules"]
    assert [rule["annotations"] for rule in rules] == [rule["annotations"] for rule in alerts.group(context)]
    assert any("$labels.source" in rule["annotations"]["summary"] for rule in rules)
    rest = json.dumps([{name: part for name, part in rule.items() if name != "annotations"} for rule in rules])
    assert "$" not in rest.replace("$$", "")
    # Panels and alerts ask the data source that is provisioned.
    uids = set(re.findall(r'"type": "grafana-postgresql-datasource",\s+"uid": "([^"]+)"', "".join(made.values())))
    assert uids == {source["uid"]}
    files.write(tmp_path, context, Database())
    left = tmp_path / files.JSON / "older.json"
    left.write_text("{}")
    files.write(tmp_path, context, Database())
    assert not left.exists()
