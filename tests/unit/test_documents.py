"""What documents say is what the code has."""

import re
from pathlib import Path

import pytest

from citybeat.settings import Settings
from devices.errors import Reason

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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


def test_the_first_command_of_the_readme_is_the_demo():
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.index("make demo") < text.index("make test") < 2500
