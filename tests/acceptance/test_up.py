"""`citybeat up`, as a newcomer types it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from citybeat import stack
from citybeat.commands.up import seconds
from citybeat.devices.errors import CitybeatError
from citybeat.stack.process import free_port
from tests.acceptance.conftest import wait_for

PORTS = ["CITYBEAT_PG_PORT", "CITYBEAT_MQTT_PORT", "CITYBEAT_API_PORT", "CITYBEAT_INGEST_PORT"]


@pytest.fixture
def env(tmp_path, debian_root):
    """Settings of a home of one's own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CITYBEAT_")}
    ports = {name: str(free_port()) for name in PORTS}
    return clean | ports | {"CITYBEAT_HOME": str(tmp_path / "home"), "CITYBEAT_ROOT": str(debian_root)}


def command(*arguments):
    return [sys.executable, "-m", "citybeat", *arguments]


def run(env, *arguments):
    return subprocess.run(command(*arguments), env=env, capture_output=True, text=True, timeout=150, check=False)


def processes(home):
    """Every process that knows of this home: by its environment, or its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if home.encode() in known:
                found.append((int(entry.name), (entry / "cmdline").read_bytes()))
    return found


def test_the_demo(env, tmp_path):
    report = tmp_path / "demo.json"
    done = run(env, "up", "--for", "6s", "--devices", "60", "--report", str(report))
    assert done.returncode == 0, done.stderr
    account = json.loads(report.read_text())
    assert account["balanced"] is True
    assert account["rollups_match"] is True
    assert account["stored"] > 0
    assert account["published"] == account["received"]
    assert account["in_flight"] == account["lost_before_broker"] == account["quarantined"] == 0
    assert account["findings"] == []
    assert json.loads(done.stdout) == account
    assert processes(env["CITYBEAT_HOME"]) == []
    # And again, in the same home: the report is of the run, the books are of all time.
    key = (Path(env["CITYBEAT_HOME"]) / "api-key").read_text().strip()
    again = run(env, "up", "--for", "3s", "--devices", "20", "--report", str(report))
    assert again.returncode == 0, again.stderr
    assert f"API key: {key} " in done.stderr
    assert f"console: http://127.0.0.1:{env['CITYBEAT_API_PORT']}/#key={key}" in done.stderr
    assert f"API key: {key} " in again.stderr
    assert (Path(env["CITYBEAT_HOME"]) / "api-key").stat().st_mode & 0o777 == 0o600
    assert 0 < json.loads(report.read_text())["stored"] < account["stored"] + 400
    ledger = run(env, "ledger")
    assert ledger.returncode == 0
    assert ledger.stdout.rstrip().endswith("balanced")


def test_without_a_simulator_nothing_is_stored_and_the_status_says_so(env):
    done = run(env, "up", "--for", "1s", "--devices", "0")
    assert done.returncode == 1
    assert json.loads(done.stdout)["published"] == 0
    assert "nothing was stored" in done.stderr


def test_a_killed_up_leaves_no_process(env):
    process = subprocess.Popen(command("up", "--devices", "20"), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{env['CITYBEAT_API_PORT']}/healthz"
        wait_for(lambda: answers(url))
        assert len(processes(env["CITYBEAT_HOME"])) > 4
    finally:
        process.kill()
        process.communicate()
    wait_for(lambda: processes(env["CITYBEAT_HOME"]) == [], lambda: processes(env["CITYBEAT_HOME"]), 20)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


def stored(env):
    """Readings that the ledger has, asked of the API; 0 while it does not answer."""
    try:
        key = (Path(env["CITYBEAT_HOME"]) / "api-key").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{env['CITYBEAT_API_PORT']}/v1/ledger", headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=1) as answer:
            return json.load(answer)["totals"]["stored"]
    except OSError:
        return 0


def test_ctrl_c_ends_it_with_an_account(env):
    process = subprocess.Popen(command("up", "--devices", "20"), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: stored(env) > 0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert json.loads(out)["balanced"] is True
    assert processes(env["CITYBEAT_HOME"]) == []


def test_a_crash_of_a_part_ends_it_with_its_reason(env):
    process = subprocess.Popen(command("up", "--devices", "20"), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{env['CITYBEAT_API_PORT']}/healthz"))
        (ingest,) = [pid for pid, line in processes(env["CITYBEAT_HOME"]) if b"\0ingest\0" in line]
        os.kill(ingest, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "ingest ended with status -9" in err
    assert processes(env["CITYBEAT_HOME"]) == []


@pytest.mark.parametrize("setting", PORTS)
def test_a_port_that_is_taken_is_named_with_its_setting(env, setting):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(env | {setting: port}, "up", "--for", "1s")
    assert done.returncode == 1
    assert port in done.stderr
    assert setting in done.stderr
    assert "Traceback" not in done.stderr


def test_two_homes_run_side_by_side(env, tmp_path):
    ports = {name: str(free_port()) for name in PORTS}
    other = env | ports | {"CITYBEAT_HOME": str(tmp_path / "other")}
    both = [
        subprocess.Popen(
            command("up", "--for", "3s", "--devices", "10"), env=each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for each in (env, other)
    ]
    for process in both:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert json.loads(out)["stored"] > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"CITYBEAT_PG_PORT": "no"}, "CITYBEAT_PG_PORT"),
        ({"CITYBEAT_CATALOGUE": "/nowhere.toml"}, "CITYBEAT_CATALOGUE=/nowhere.toml"),
        ({"CITYBEAT_BATCH_MESSAGES": "0"}, "CITYBEAT_BATCH_MESSAGES"),
    ],
)
def test_a_wrong_setting_is_named(env, changes, words):
    done = run(env | changes, "up", "--for", "1s")
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_broker_password_is_a_clear_error(env, stack_settings, servers):
    url = servers.mqtt_url.replace("mqtt://ingest:", "mqtt://ingest:wrong")
    done = run(env | {"CITYBEAT_DATABASE_URL": servers.database_url, "CITYBEAT_MQTT_URL": url}, "migrate")
    assert done.returncode == 0, done.stderr
    done = run(env | {"CITYBEAT_DATABASE_URL": servers.database_url, "CITYBEAT_MQTT_URL": url}, "ingest")
    assert done.returncode == 1
    assert "check user and password in CITYBEAT_MQTT_URL" in done.stderr
    assert "wrong" not in done.stderr
    assert isinstance(stack_settings, stack.StackSettings)


@pytest.mark.parametrize(("text", "expected"), [("30s", 30.0), ("5m", 300.0), ("1h", 3600.0), ("1.5", 1.5), (None, None)])
def test_durations(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "-1s", "5 minutes", "1d"])
def test_durations_that_are_none(text):
    with pytest.raises(CitybeatError, match="30s"):
        seconds(text)
