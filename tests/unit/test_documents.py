"""Documents agree with the code."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from citybeat.api.http.requests import Requests
from citybeat.api.routes.metrics import families as families_of
from citybeat.devices.errors import Reason
from citybeat.devices.ledger import Counts
from citybeat.ingest.service import IngestConfig, IngestService
from citybeat.ingest.transport.gateway import Session
from citybeat.ingest.transport.inbox import BatchSize
from citybeat.ingest.transport.partition import Timeouts
from citybeat.settings import Settings
from citybeat.simulator.city.layout import build
from citybeat.simulator.faults.kinds import Fault
from citybeat.simulator.faults.malformed import READINGS, REPORTS, WHOLE, Form
from citybeat.simulator.faults.sensors import applies, look_up
from citybeat.simulator.faults.truth import SCHEMA
from citybeat.storage.accounts.figures import Figures

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name):
    field = Settings.model_fields[name]
    default = "—" if field.default is None else f"`{field.default}`"
    assert f"| `CITYBEAT_{name.upper()}` | {default} | {field.description} |" in (ROOT / "docs/settings.md").read_text("utf-8")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_documented(reason):
    assert f"`{reason.value}`" in (ROOT / "docs/mqtt.md").read_text("utf-8")


@pytest.mark.parametrize("name", [*Fault, *Form, *SCHEMA.names])
def test_every_fault_and_every_column_of_the_truth_is_documented(name):
    assert f"`{name}`" in (ROOT / "docs/faults.md").read_text("utf-8")


@pytest.mark.parametrize("form", Form)
def test_forms_of_malformed_messages_are_documented_with_what_becomes_of_them(form):
    line = next(
        line for line in (ROOT / "docs/faults.md").read_text("utf-8").splitlines() if re.match(rf"\| .*`{form}`.* \|", line)
    )
    if form in WHOLE:
        reason, numbered = WHOLE[form]
        assert line.endswith(f"| `{reason}` | {'read' if numbered else 'lost'} |")
    else:
        assert f"| {'reading' if form in READINGS else 'report'} | `{(READINGS | REPORTS)[form]}`" in line


@pytest.mark.parametrize(
    "kinds", [(Fault.SPIKE, Fault.STEP), (Fault.STUCK,), (Fault.DRIFT, Fault.OFFSET, Fault.NOISE), (Fault.UNIT,)]
)
def test_metrics_that_cannot_have_a_fault_are_documented(kinds):
    city = build(devices=300, gateways=["gw-1"], seed=1)
    text = (ROOT / "docs/faults.md").read_text("utf-8")
    entry = text.split("\n- " + ", ".join(f"`{kind}`" for kind in kinds) + ":")[1].split("\n- ")[0]
    known = look_up(city)
    able = applies(kinds[0], known)[known.of]
    metrics = city.series.metrics
    never = {name for i, name in enumerate(metrics) if not able[city.series.metric == i].any()}
    assert set(re.findall(r"`(\w+)`", entry)) - {kind.value for kind in kinds} == never


def test_every_metric_is_documented_and_no_other(tmp_path):
    layout = IngestConfig(size=BatchSize(), timeouts=Timeouts(), spool=tmp_path)
    intake = IngestService(Session(url="mqtt://127.0.0.1:1"), layout, lambda _: None)
    intake.gateway.dropped = 0
    text = intake.metrics.exposition()[1].decode()
    intake.partitions[0]._spool.close()
    requests = Requests()
    requests.answered("GET", "/", 200, 0.1)
    requests.ended.labels("slow").inc()
    counts = Counts()
    nothing = Figures(ledger={"gw": counts}, quarantine={}, lost={}, marks=0, sensors={}, overdue={})
    families = [*text_string_to_metric_families(text), *families_of(nothing, 0.0), *requests.registry.collect()]
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    documented = re.findall(r"`(citybeat_\w+?)(?:\{\w+\})?`", (ROOT / "docs/operations.md").read_text("utf-8"))
    assert set(documented) == names
    assert all(family.documentation.endswith(".") for family in families)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


#: Files that instructions tell the reader to write: `NAME`, and the names of examples.
EXAMPLES = {
    "api/routes/kinds.py",
    "dashboards/boards/NAME.py",
    "devices/wire/keyvalue.py",
    "storage/migrations/0021_noun.sql",
    "tests/unit/test_keyvalue.py",
}
FOLDERS = ("devices", "storage", "ingest", "api", "dashboards", "simulator", "stack", "citybeat", "tests", "bench", "docs")
PATHS = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./*-]+\.(?:py|sql|md|toml|js|yaml))`")
#: Texts that name files. The changelog and the decisions are history, and may name files that are gone.
NAMING = [
    *(path for path in DOCUMENTS if path.name != "CHANGELOG.md" and path.parent.name != "decisions"),
    *(path for folder in FOLDERS if folder != "docs" for path in (ROOT / folder).rglob("*.py")),
]


def test_files_that_documents_and_modules_name_exist():
    named = {(name, path.relative_to(ROOT).as_posix()) for path in NAMING for name in PATHS.findall(path.read_text("utf-8"))}
    assert len(named) > 50
    assert {(name, by) for name, by in named if name not in EXAMPLES and not any(ROOT.glob(name))} == set()


def anchors(document):
    """The names by which links lead to the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_headings_lead_to_headings(document):
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", document.read_text("utf-8")):
        assert heading in anchors(document.parent / target if target else document), f"{target}#{heading}"


def test_the_index_lists_every_page():
    listed = set(re.findall(r"\]\(([\w.-]+\.md)\)", (ROOT / "docs/README.md").read_text("utf-8")))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= listed


def test_the_first_command_of_the_readme_is_the_demo():
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.index("make demo") < text.index("make test") < 2500
