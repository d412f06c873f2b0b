"""Commands in a folder whose files are named as packages of ours and of the standard library: none of them is run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from citybeat.stack.process import free_port
from tests.acceptance.conftest import wait_for

CHECKOUT = Path(__file__).parents[2]
#: Whatever our packages are called, now or later: the folders of the checkout and of `citybeat`, and names that everybody uses.
NAMES = {
    *(path.name for parent in (CHECKOUT, CHECKOUT / "citybeat") for path in parent.iterdir() if (path / "__init__.py").exists()),
    *(path.stem for path in (CHECKOUT / "citybeat").glob("*.py") if not path.stem.startswith("__")),
    *("citybeat", "storage", "stack", "api", "yaml", "json", "socket", "typing", "numpy", "sitecustomize", "usercustomize"),
}
#: The command as it is installed: no `-m`, which would make the current folder part of the search path by itself.
CITYBEAT = str(Path(sys.executable).with_name("citybeat"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder full of modules that leave a file when they are run."""
    made = tmp_path / "hostile"
    made.mkdir()
    code = "import os\nopen(os.path.join(os.path.dirname(__file__), 'ran'), 'a').close()\nraise RuntimeError(__file__)\n"
    for i, name in enumerate(sorted(NAMES)):
        if i % 2 or name == "citybeat":
            (made / f"{name}.py").write_text(code)
        else:
            (made / name).mkdir()
            (made / name / "__init__.py").write_text(code.replace("os.path.dirname(__file__)", f"{str(made)!r}"))
    return made


@pytest.fixture
def env(tmp_path: Path, debian_root: Path) -> dict[str, str]:
    """Settings of a home of its own; nothing that a test runner adds to the search path."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("CITYBEAT_", "PYTHON"))}
    ports = {f"CITYBEAT_{name}_PORT": str(free_port()) for name in ("PG", "MQTT", "API", "INGEST")}
    return clean | ports | {"CITYBEAT_HOME": str(tmp_path / "home"), "CITYBEAT_ROOT": str(debian_root)}


def run(folder: Path, env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run([CITYBEAT, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=150, check=False)
    assert not list(folder.rglob("ran")), arguments
    assert done.returncode == 0, done.stderr
    return done


def test_the_folder_would_be_noticed(folder: Path, env: dict[str, str]):
    done = subprocess.run([sys.executable, "-m", "citybeat", "--help"], cwd=folder, env=env, capture_output=True, check=False)
    assert done.returncode != 0
    assert (folder / "ran").exists()


def test_nothing_of_the_current_folder_is_run(folder: Path, env: dict[str, str]):
    assert "MQTT" in run(folder, env, "--help").stdout
    run(folder, env, "migrate")
    account = json.loads(run(folder, env, "up", "--devices", "20", "--for", "10s").stdout)
    assert account["balanced"] is True
    assert account["stored"] > 0
    ingest = subprocess.Popen([CITYBEAT, "ingest", "--stats"], cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    try:
        said: list[str] = []
        wait_for(lambda: said.append(ingest.stdout.readline()) or '"ready": true' in said[-1], lambda: said)
        ingest.send_signal(signal.SIGTERM)
        ingest.communicate(timeout=60)
    finally:
        ingest.kill()
    assert ingest.returncode == 0
    assert not list(folder.rglob("ran"))
