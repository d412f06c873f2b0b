"""The console in a headless Chromium, against servers, ingest and API as a user starts them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import paho.mqtt.client as mqtt
import pytest
from playwright.sync_api import Browser, Page, expect

from citybeat.devices.device import Device, Sensor
from citybeat.storage.registry import records
from tests.acceptance.conftest import PATIENCE, Service, connected
from tests.acceptance.console import browser as browsers
from tests.acceptance.console.browser import Visit

#: What somebody may call a device who means harm, or does not know better.
EVIL = '<img src="/x" onerror="window.broken=1"><b>bold</b>'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The machine's browser; where it has none, these tests are skipped."""
    if browsers.program() is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with browsers.browser() as made:
        yield made


@pytest.fixture
def visitor(chromium: Browser, service: Service) -> Iterator[Callable[..., Visit]]:
    """`visitor(**options)`: somebody who has the console's address. Nothing on any page may complain, or leave the host."""
    visits = []

    @contextmanager
    def come(**options):
        with browsers.visit(chromium, service.url, **options) as visit:
            visits.append(visit)
            yield visit

    yield come
    assert [visit.complaints for visit in visits] == [[] for _ in visits]
    assert [visit.strangers for visit in visits] == [[] for _ in visits]


@pytest.fixture
def page(visitor: Callable[..., Visit], service: Service) -> Iterator[Page]:
    """The console, open, with all rights."""
    with visitor() as visit:
        yield visit.open(service.key)


@pytest.fixture(scope="module")
def source(service: Service) -> Iterator[mqtt.Client]:
    """A source with the devices of these tests, connected."""
    devices = [
        Device(id="con-live", name="Live station", source="gw-con", domain="environment", district="Old Town",
               latitude=13.84, longitude=109.25, sensors=(Sensor(metric="temperature"), Sensor(metric="pm25"))),
        Device(id="con-brief", name="Brief meter", source="gw-con", domain="energy", district="Old Town",
               latitude=13.85, longitude=109.26, sensors=(Sensor(metric="phaseVoltage", interval=1.0),)),
        Device(id="con-evil", name=EVIL, source="gw-con", domain="traffic", district=EVIL, tags={"owner": EVIL, EVIL: "x"},
               latitude=13.83, longitude=109.27, sensors=(Sensor(metric="intensity"),)),
        Device(id="con-past", name="Station with a past", source="gw-con", domain="environment", district="Harbour",
               latitude=13.82, longitude=109.26, sensors=(Sensor(metric="temperature"),)),
        Device(id="con-nowhere", name="Station without a place", source="gw-con", domain="environment", district="Harbour",
               sensors=(Sensor(metric="temperature"),)),
    ]  # fmt: skip
    with service.town.database() as database:
        records.register(database, devices)
    with connected(service.town, "gw-con") as client:
        yield client


def until(page: Page, expression: str) -> None:
    """Wait for what is not an element. (Playwright's own wait evaluates a text in the page, which its policy forbids.)"""
    deadline = time.monotonic() + PATIENCE
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def publish(client: mqtt.Client, *reports: dict[str, object]) -> None:
    client.publish("city/v1/gw-con/readings", json.dumps(reports), qos=1).wait_for_publish(PATIENCE)


def tell(client: mqtt.Client, device: str, metric: str, value: float, *, ago: float = 0.0) -> None:
    publish(client, {"device": device, "ts": int((time.time() - ago) * 1000), "values": {metric: value}})


def choose(page: Page, device: str) -> None:
    """Open a device by the list."""
    page.click("#tab-sensors")
    page.click(f'#sensors [data-device="{device}"]')
    expect(page.locator("#panel")).to_be_visible()
