"""The public interface is that of version 0.1.0, apart from the changes in CHANGELOG.md."""

import httpx
import pytest

from citybeat.stack.process import free_port
from tests import public_interface as interface
from tests.acceptance.conftest import wait_for

#: Differences that CHANGELOG.md describes: path in the interface -> why.
CHANGES: dict[str, str] = {"/command_line/citybeat": "--version is new"}


@pytest.mark.parametrize("part", ["http", "command_line", "settings"])
def test_nothing_changed_unsaid(part):
    before = interface.flat(interface.version_0_1_0()[part], f"/{part}")
    now = interface.flat(getattr(interface, part)(), f"/{part}")
    assert differences(before, now) == {}


def test_metrics_did_not_change_unsaid(town, service):
    """Ingest's and the API's, after a request."""
    before, now = interface.version_0_1_0()["metrics"], scraped(town, service)
    # Labels show as soon as there is a sample, and whether there is one may depend on other tests.
    for name in set(before) & set(now):
        if 1 in {len(before[name]), len(now[name])}:
            before[name], now[name] = before[name][:1], now[name][:1]
    assert differences(interface.flat(before, "/metrics"), interface.flat(now, "/metrics")) == {}


def scraped(town, service):
    port = free_port()
    process = town.start("ingest", "--stats", CITYBEAT_INGEST_PORT=str(port))
    process.wait_ready()
    wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 200)
    ingest = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    api = [httpx.get(f"{service.url}/metrics", headers=service.headers).text for _ in range(2)][1]
    assert process.stop() == 0
    return interface.metrics(ingest, api)


def differences(before, now):
    return {
        path: (before.get(path), now.get(path))
        for path in {**before, **now}
        if before.get(path) != now.get(path) and path not in CHANGES
    }
