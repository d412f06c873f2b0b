"""The server process: it stops while streams are open, and the kernel drops who takes nothing."""

import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from citybeat import stack
from citybeat.commands import serving
from citybeat.stack.process import free_port
from citybeat.storage.registry import keys
from citybeat.storage.registry.keys import Scope
from tests.sse import Reader

PATIENCE = 30


def answers(url):
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_are_ended_and_hold_nothing_up(database, connection, servers, tmp_path, number):
    key = keys.create(connection, name="n", scopes=[Scope.READ], by="test")
    url = f"http://127.0.0.1:{free_port()}"
    env = {
        **os.environ,
        "CITYBEAT_HOME": str(tmp_path),
        "CITYBEAT_DATABASE_URL": database,
        "CITYBEAT_MQTT_URL": servers.mqtt_url,
        "CITYBEAT_API_PORT": url.rsplit(":", 1)[1],
    }
    with (tmp_path / "api.log").open("wb") as log:
        process = stack.spawn([sys.executable, "-m", "citybeat", "api"], env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(url):
            assert process.poll() is None, (tmp_path / "api.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with httpx.stream("GET", f"{url}/v1/stream", headers={"X-API-Key": key}, timeout=PATIENCE) as response:
            lines = response.iter_lines()
            assert next(lines) == "retry: 2000"
            process.send_signal(number)
            began = time.monotonic()
            events = list(Reader().events(lines))
            assert [(event.name, event.data) for event in events] == [("end", {"reason": "shutdown"})]
        process.wait(PATIENCE)
        assert time.monotonic() - began < serving._GRACE / 2
        assert "Traceback" not in (tmp_path / "api.log").read_text()
    finally:
        process.kill()
        process.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="a feature of Linux")
def test_the_kernel_drops_who_takes_nothing():
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        serving.drop_stalled(listener, 0.5)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        ours, _ = listener.accept()
        with ours:
            ours.settimeout(PATIENCE)
            with pytest.raises((TimeoutError, ConnectionError)) as dropped:
                while True:
                    ours.sendall(bytes(1 << 20))
            assert dropped.value.errno is not None  # the kernel's time-out, not that of this test
