"""Named statements, migrations and repeatable files say what they are for, in a sentence."""

import re
from pathlib import Path

import pytest

from citybeat.storage import migrate
from citybeat.storage.db import schema_version

FILES = sorted((Path(migrate.__file__).parent / "queries").glob("*.sql"))
RIDDLE = re.compile(r"(What|How|Whom|Whether|Whose|Which|Of)\b")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_statement_begins_with_its_purpose(path):
    head, *statements = path.read_text("utf-8").split("\n-- name: ")
    for text in (head, *(statement.partition("\n")[2] for statement in statements)):
        assert text.startswith("-- "), text
        assert not RIDDLE.match(text[3:]), text


@pytest.mark.parametrize("script", [*schema_version.migrations(), *schema_version.repeatables()], ids=lambda script: script.file)
def test_every_script_begins_with_its_purpose(script):
    assert script.text.startswith("-- ")


def test_a_repeatable_file_can_be_applied_again():
    for script in schema_version.repeatables():
        made = re.findall(r"^CREATE\b.*", script.text, re.MULTILINE)
        assert all(line.startswith("CREATE OR REPLACE ") for line in made), script.file
