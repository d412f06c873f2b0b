"""The command line's help: every command, option and argument is described, for somebody who does not know the project."""

import re
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

import citybeat
from citybeat.cli import app

RIDDLE = re.compile(r"(What|How|Whom|Whether|Whose|Which|Of|If|It|Its)\b")


def commands(command, path: str = "citybeat") -> Iterator[tuple[str, object]]:
    """The command and all below it, with the words that call them."""
    yield path, command
    if hasattr(command, "list_commands"):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), f"{path} {name}")


COMMANDS = dict(commands(typer.main.get_command(app)))
#: Shown by all, and made by Typer or for it.
USUAL = {"help"}


def test_there_are_commands():
    assert {"citybeat api", "citybeat simulate run", "citybeat stack reset", "citybeat dashboards publish"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_described_in_sentences(name):
    text = COMMANDS[name].help
    assert text
    assert text[0].isupper()
    assert text.rstrip().endswith(".")
    assert not RIDDLE.match(text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_parameter_is_described_with_its_default(name):
    for parameter in COMMANDS[name].params:
        if parameter.name in USUAL:
            continue
        text = getattr(parameter, "help", None)
        assert text, parameter.name
        assert text[0].isupper(), parameter.name
        assert text.endswith("."), parameter.name
        assert not RIDDLE.match(text), text
        if not parameter.required and parameter.default in (None, "") and not getattr(parameter, "is_flag", False):
            assert "Default: " in text, f"{parameter.name}: {text}"


def test_the_top_help_says_what_citybeat_is():
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    words = " ".join(done.output.split())
    assert (
        "Collects a city's sensor readings from MQTT, checks them, stores them in TimescaleDB and serves them over HTTP." in words
    )


def test_the_version_is_the_package_s():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"citybeat {citybeat.__version__}\n")
