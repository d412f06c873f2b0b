"""The private root's recipe, and what is said when its tools are missing. (Building one takes a network: `make` does.)"""

import json
import os
from pathlib import Path

import pytest

from citybeat.stack import __main__ as command
from citybeat.stack import root
from citybeat.stack.errors import RootBuildError, ToolMissingError


def fake_mmdebstrap(directory: Path, body: str) -> None:
    program = directory / "mmdebstrap"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


# The last argument is the directory to fill.
FILLS = (
    'for target; do :; done; mkdir -p "$target/usr/lib/postgresql/17/bin" "$target/usr/share/doc" "$target/etc"; '
    'touch "$target/usr/lib/postgresql/17/bin/postgres"; echo "$@" >> "$(dirname "$0")/calls"'
)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "tools"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return directory


def test_missing_tools_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(root, "search_path", lambda: "")
    with pytest.raises(ToolMissingError, match=r"sudo apt-get install .*mmdebstrap bubblewrap") as caught:
        root.require_tools()
    assert "CITYBEAT_DATABASE_URL" in str(caught.value)


def test_a_root_is_built_once_and_again_when_its_recipe_changes(tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch):
    fake_mmdebstrap(tools, FILLS)
    target = tmp_path / "state" / "root"
    first = root.ensure(target, lambda _: None)
    assert root.ensure(target, lambda _: None) == first == root.build_id(target)
    assert not (target / "usr/share/doc").exists()
    monkeypatch.setattr(root, "PACKAGES", (*root.PACKAGES, "another"))
    assert root.build_id(target) is None
    assert root.ensure(target, lambda _: None) != first
    calls = (tools / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert "--variant=extract --include=postgresql-17-timescaledb,mosquitto,dash,coreutils trixie" in calls[0]
    assert "another" in calls[1]
    assert sorted(entry.name for entry in target.parent.iterdir()) == ["root", "root.lock"]


def test_a_build_that_fails_leaves_nothing_and_says_why(tmp_path: Path, tools: Path):
    fake_mmdebstrap(tools, 'for target; do :; done; mkdir -p "$target/usr"; echo "E: no such mirror"; exit 25')
    target = tmp_path / "state" / "root"
    with pytest.raises(RootBuildError, match=r"exit status 25.*\n.*no such mirror"):
        root.ensure(target, lambda _: None)
    assert [entry.name for entry in target.parent.iterdir()] == ["root.lock"]


def test_leftovers_of_a_killed_build_are_cleared_away(tmp_path: Path, tools: Path):
    fake_mmdebstrap(tools, FILLS)
    target = tmp_path / "root"
    (tmp_path / "root.tmp-dead").mkdir()
    root.ensure(target, lambda _: None)
    assert not (tmp_path / "root.tmp-dead").exists()


def test_a_damaged_marker_is_no_root(tmp_path: Path):
    (tmp_path / root.MARKER).write_text("{")
    assert root.build_id(tmp_path) is None
    (tmp_path / root.MARKER).write_text(json.dumps({"fingerprint": "old", "build": "x"}))
    assert root.build_id(tmp_path) is None


@pytest.mark.parametrize(("user", "installed"), [(0, [["chromium"]]), (1000, [])])
def test_a_browser_is_installed_by_root_only_and_once(
    user: int, installed: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    calls: list[list[str]] = []
    (tmp_path / "apt-get").write_text("#!/bin/sh\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(command, "install", calls.append)
    command.browser()
    assert calls == installed
    assert ("sudo apt-get install" in capsys.readouterr().out) == (user != 0)
    (tmp_path / "chromium").write_text("#!/bin/sh\n")
    (tmp_path / "chromium").chmod(0o755)
    command.browser()
    assert calls == installed
