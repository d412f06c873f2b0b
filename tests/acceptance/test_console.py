"""The console in a headless Chromium, against servers, ingest and API as a user starts them, and the demo's simulator."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import paho.mqtt.client as mqtt
import pytest
from playwright.sync_api import Browser, Page, expect

from devices.device import Device, Sensor
from simulator import city
from storage import registry
from tests.acceptance import browser as browsers
from tests.acceptance.browser import Visit
from tests.acceptance.conftest import PATIENCE, Service, connected, wait_for

pytestmark = pytest.mark.skipif(browsers.program() is None, reason="no Chromium on this machine: apt-get install chromium")

#: Devices of the simulated city, as `citybeat up --devices 60` has it.
DEMO = 60
#: s from a publish to the page.
PROMPT = 2.0
#: Share of its time that the page's main thread may be busy.
BUSY = 0.5
EVIL = '<img src="/x" onerror="window.broken=1"><b>bold</b>'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
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
        registry.register(database, devices)
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


def test_the_map_shows_the_demos_sensors(service: Service, source: mqtt.Client, visitor: Callable[..., Visit]):
    layout = city.build(devices=DEMO, gateways=[f"gw-{number:02d}" for number in range(1, 9)], seed=1)
    simulator = service.town.start("simulate", "run", "--devices", str(DEMO), "--json")
    try:
        with visitor() as visit:
            page = visit.open(service.key)
            for device in layout.devices[:: DEMO // 10]:  # registered when the simulator is there
                page.wait_for_selector(f'[data-device="{device.id}"]', state="attached")
            until(page, f"Number(document.querySelector('#map').dataset.devices) >= {DEMO}")
            until(page, "document.querySelectorAll('#sensors .entry').length >= 60")
            # Each domain's marks are drawn: the canvas has the colour of a sensor that is well where its device stands.
            for domain in ("traffic", "environment", "energy"):
                for other in {"traffic", "environment", "energy"} - {domain}:
                    page.uncheck(f'#domains input[value="{other}"]')
                until(page, f"Number(document.querySelector('#map').dataset.devices) >= {DEMO // 5}")
                wait_for(lambda: painted(page) > 200, lambda shown=domain: (shown, painted(page)))
                for other in {"traffic", "environment", "energy"} - {domain}:
                    page.check(f'#domains input[value="{other}"]')
            every = len(page.query_selector_all("#sensors .entry"))
            page.select_option("#district", layout.devices[0].district)
            until(page, f"document.querySelectorAll('#sensors .entry').length < {every}")
            districts = {device.id for device in layout.devices if device.district == layout.devices[0].district}
            shown = page.eval_on_selector_all("#sensors .entry", "rows => rows.map(row => row.dataset.device)")
            assert districts == set(shown)
            page.select_option("#district", "")
            page.select_option("#metric", "pm25")
            until(page, f"document.querySelectorAll('#sensors .entry').length < {every}")
            shown = page.eval_on_selector_all("#sensors .entry", "rows => rows.map(row => row.dataset.device)")
            measuring = {device.id for device in layout.devices if any(sensor.metric == "pm25" for sensor in device.sensors)}
            assert measuring
            assert set(shown) & {device.id for device in layout.devices} == measuring
    finally:
        assert simulator.stop() in {0, -15}


def painted(page: Page) -> int:
    """Pixels of the map in the colour of sensors that are well."""
    return page.evaluate("""() => {
        const colour = getComputedStyle(document.documentElement).getPropertyValue("--ok").trim();
        const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
        let n = 0;
        for (const canvas of document.querySelectorAll("#map canvas")) {
          const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
          copy.drawImage(canvas, 0, 0);
          const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
          for (let i = 0; i < data.length; i += 4) n += data[i] === r && data[i + 1] === g && data[i + 2] === b;
        }
        return n;
    }""")


def test_a_click_on_the_map_opens_the_sensor(page: Page, source: mqtt.Client):
    page.fill("#find", "Live station")
    until(page, "document.querySelector('#map').dataset.devices === '1'")
    middle = """() => {
        const canvas = document.querySelector("#map .leaflet-overlay-pane canvas");
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        const { data, width, height } = copy.getImageData(0, 0, canvas.width, canvas.height);
        const style = getComputedStyle(document.documentElement);
        const wanted = ["ok", "waiting", "silent", "overdue"].map((name) => style.getPropertyValue(`--${name}`).trim())
          .map((text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16)).join());
        const box = canvas.getBoundingClientRect();
        let [x, y, n] = [0, 0, 0];
        for (let i = 0; i < data.length; i += 4) {
          if (!wanted.includes(`${data[i]},${data[i + 1]},${data[i + 2]}`)) continue;
          x += (i / 4) % width;
          y += Math.floor(i / 4 / width);
          n += 1;
        }
        return n && [box.x + (x / n) * (box.width / width), box.y + (y / n) * (box.height / height)];
    }"""
    until(page, f"({middle})()")  # drawn
    at = page.evaluate(middle)
    page.mouse.click(*at)
    expect(page.locator("#panel h2")).to_contain_text("Live station")


def test_a_published_value_is_in_the_open_page_within_two_seconds(page: Page, source: mqtt.Client):
    tell(source, "con-live", "temperature", 20.0)
    choose(page, "con-live")
    page.click('[data-metric="temperature"]')
    page.wait_for_selector("#chart .main-svg")
    took = []
    for value in (21.25, 22.5, 23.75):
        began = time.monotonic()
        tell(source, "con-live", "temperature", value)
        until(page, f"document.querySelector('[data-metric=temperature] .value').textContent.includes('{value}')")
        took.append(time.monotonic() - began)
    assert min(took) < PROMPT, took  # the machine may have been busy with others, but not thrice
    # The chart goes on too, and the list says it.
    until(page, "Number(document.querySelector('#chart').dataset.points) >= 4")
    expect(page.locator('[data-device="con-live"] .detail')).to_contain_text("23.75 °C")
    expect(page.locator("#health-stream")).to_contain_text("live")


def test_a_sensor_that_stops_goes_overdue(page: Page, source: mqtt.Client):
    tell(source, "con-brief", "phaseVoltage", 230.0)
    row = page.locator('#wrong [data-sensor="con-brief/phaseVoltage"]')
    choose(page, "con-brief")
    state = page.locator("#panel .sensor .badge")
    expect(state).to_contain_text("OK", timeout=PATIENCE * 1000)
    page.click("#tab-wrong")
    expect(state).to_contain_text("Overdue", timeout=PATIENCE * 1000)
    expect(row).to_contain_text("Overdue")
    expect(row).to_contain_text("230 V")
    tell(source, "con-brief", "phaseVoltage", 231.0)
    expect(state).to_contain_text("OK", timeout=PATIENCE * 1000)


def test_what_is_out_of_its_limits_stands_first(page: Page, source: mqtt.Client):
    tell(source, "con-live", "pm25", 5000.0)
    row = page.locator('#wrong [data-sensor="con-live/pm25"]')
    expect(row).to_contain_text("Limit exceeded")
    expect(row).to_contain_text("5,000 µg/m³")
    assert page.locator("#wrong .entry").first.get_attribute("data-sensor") == "con-live/pm25"
    row.click()
    expect(page.locator("#panel .sensor[aria-checked=true]")).to_contain_text("PM2.5")
    expect(page.locator("#panel")).to_contain_text("Plausible: 0 µg/m³ to 1,000 µg/m³")
    tell(source, "con-live", "pm25", 12.0)
    expect(row).to_have_count(0)


def test_flags_and_gaps_are_visible(page: Page, source: mqtt.Client, service: Service):
    now = time.time()
    minutes = [*range(300, 200, -1), *range(100, 0, -1)]
    reports = [{"device": "con-past", "ts": int((now - 60 * m) * 1000), "values": {"temperature": 20 + m / 100}} for m in minutes]
    publish(source, *reports)
    tell(source, "con-past", "temperature", 99.0, ago=30)
    expect(page.locator('[data-sensor="con-past/temperature"]')).to_contain_text("Limit exceeded")
    # Its history is older than its registration; what it has is shown.
    choose(page, "con-past")
    for span, points in (("24h", 150), ("7d", 10), ("30d", 3)):
        page.click(f'[data-range="{span}"]')
        page.wait_for_selector('#chart[aria-busy="false"]')
        page.wait_for_selector(f'#panel [data-range="{span}"][aria-pressed=true]')
        until(page, f"Number(document.querySelector('#chart').dataset.points) >= {points}")
        assert page.locator("#chart").get_attribute("data-flagged") == "1", span
        expect(page.locator("#chart .scatterlayer .point")).not_to_have_count(0)
        if span == "24h":
            assert page.locator("#chart").get_attribute("data-gaps") == "1"
            expect(page.locator("#chart .shapelayer path").first).to_be_attached()
    expect(page.locator("#panel .note").first).to_contain_text("flagged: 1")


def test_names_are_text_whatever_they_are(page: Page, source: mqtt.Client):
    tell(source, "con-evil", "intensity", 9000.0)
    expect(page.locator('[data-sensor="con-evil/intensity"]')).to_contain_text("<b>bold</b>")
    choose(page, "con-evil")
    expect(page.locator("#panel h2")).to_contain_text(EVIL)
    expect(page.locator("#panel .facts")).to_contain_text(EVIL)
    page.hover("#map")
    for selector in ("#panel", "#side", "#place"):
        assert page.locator(f"{selector} img").count() == 0
        assert page.locator(f"{selector} b", has_text="bold").count() == 0
    assert page.evaluate("window.broken") is None


def test_what_has_no_place_is_in_the_list_and_said(page: Page, source: mqtt.Client):
    page.select_option("#district", "Harbour")
    expect(page.locator("#nowhere")).to_contain_text("1 devices have no place")
    page.click("#tab-sensors")
    expect(page.locator('[data-device="con-nowhere"]')).to_be_visible()


def test_language_and_theme(visitor: Callable[..., Visit], service: Service, source: mqtt.Client):
    with visitor(locale="vi-VN", color_scheme="dark") as visit:
        page = visit.open(service.key)
        assert page.evaluate("document.documentElement.lang") == "vi"
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        expect(page.locator("#tab-wrong")).to_contain_text("Sự cố")
        choose(page, "con-live")
        expect(page.locator("#panel")).to_contain_text("Nhiệt độ")
        page.select_option("#language", "en")
        expect(page.locator("#tab-wrong")).to_contain_text("What is wrong")
        expect(page.locator("#panel")).to_contain_text("Temperature")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.select_option("#theme", "light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
        page.reload()
        page.wait_for_selector("body[data-ready=yes]")
        assert page.evaluate("document.documentElement.lang") == "en"  # remembered, against the browser's own
        assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_the_ledger(page: Page, source: mqtt.Client, service: Service):
    tell(source, "con-live", "temperature", 24.0)
    page.click("#tab-ledger")
    row = page.locator("#ledger tbody tr", has=page.locator("th", has_text="gw-con"))
    expect(row).to_contain_text("✓")
    expect(page.locator("#ledger .verdict")).to_contain_text("Balanced")
    told = int(row.locator("td").first.inner_text().replace(",", ""))
    today = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime())
    answer = httpx.get(f"{service.url}/v1/ledger", params={"source": "gw-con", "from": today, "limit": 1}, headers=service.headers)
    assert 0 < told <= answer.json()["totals"]["received"]


def test_the_page_asks_for_a_key(chromium: Browser, service: Service, source: mqtt.Client):
    with browsers.visit(chromium, service.url) as visit:
        page = visit.open(None)
        dialog = page.locator("#key-dialog")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")  # there is nothing to see without one
        expect(dialog).to_be_visible()
        page.fill("#key-input", "cb_00000000_wrong")
        page.click("#key-form [type=submit]")
        expect(page.locator("#key-error")).to_contain_text("refused")
        page.fill("#key-input", service.key)
        page.click("#key-form [type=submit]")
        page.wait_for_selector("body[data-ready=yes]")
        expect(dialog).to_be_hidden()
        assert page.evaluate("[sessionStorage.length, localStorage.getItem('citybeat.key')]") == [1, None]
        assert service.key not in page.content()
        # Remembered on this machine, if somebody wants it, and forgotten again.
        page.click("#key-button")
        page.fill("#key-input", service.key)
        page.check("#key-remember")
        page.click("#key-form [type=submit]")
        until(page, "localStorage.getItem('citybeat.key') !== null")
        page.wait_for_selector("body[data-ready=yes]")
        page.click("#key-button")
        page.click("#key-forget")
        expect(dialog).to_be_visible()
        assert page.evaluate("localStorage.getItem('citybeat.key')") is None
        assert visit.strangers == []
        assert all("401" in complaint for complaint in visit.complaints)  # which the browser itself notes


def test_a_key_in_the_address_is_taken_out_of_it(page: Page, service: Service):
    assert page.url == f"{service.url}/"
    assert page.evaluate("sessionStorage.getItem('citybeat.key')") == service.key


def test_a_restricted_key_sees_its_own(visitor: Callable[..., Visit], service: Service, source: mqtt.Client):
    key = service.town.run("keys", "create", "harbour", "--scope", "read", "--district", "Harbour").stdout.strip()
    with visitor() as visit:
        page = visit.open(key)
        shown = page.eval_on_selector_all("#sensors .entry", "rows => rows.map(row => row.dataset.device)")
        assert set(shown) == {"con-past", "con-nowhere"}


def test_an_interruption_is_seen_and_made_good(chromium: Browser, service: Service, source: mqtt.Client):
    tell(source, "con-live", "temperature", 25.0)
    with browsers.visit(chromium, service.url) as visit:
        page = visit.open(service.key)
        choose(page, "con-live")
        value = page.locator('[data-metric="temperature"] .value')
        expect(value).to_contain_text("25 °C")
        page.context.set_offline(True)
        expect(page.locator("#health-stream")).to_contain_text("reconnecting")
        tell(source, "con-live", "temperature", 26.0)
        page.context.set_offline(False)
        expect(value).to_contain_text("26 °C")
        expect(page.locator("#health-stream")).to_contain_text("live")
        assert all("ERR_INTERNET_DISCONNECTED" in complaint for complaint in visit.complaints)  # which the browser itself notes


def test_by_keyboard_alone(page: Page, source: mqtt.Client):
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#lists")).to_be_focused()
    page.focus("#tab-wrong")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-sensors")).to_be_focused()
    row = page.locator('[data-device="con-live"]')
    row.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#panel h2")).to_be_focused()
    page.focus("#panel .sensor[aria-checked=true]")
    before = page.locator("#panel .sensor[aria-checked=true]").get_attribute("data-metric")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#panel .sensor[aria-checked=true]")).not_to_have_attribute("data-metric", before or "")
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).to_be_hidden()
    expect(row).to_be_focused()


def test_a_small_screen(visitor: Callable[..., Visit], service: Service, source: mqtt.Client):
    with visitor(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as visit:
        page = visit.open(service.key)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        choose(page, "con-live")
        page.wait_for_selector("#chart .main-svg")
        box = page.locator("#panel").bounding_box()
        assert box
        assert (box["x"], box["width"]) == (0, 360)
        page.click("#panel .close")
        expect(page.locator("#panel")).to_be_hidden()


def test_a_thousand_sensors_and_twenty_updates_a_second_leave_the_page_smooth(
    visitor: Callable[..., Visit], service: Service, source: mqtt.Client
):
    side = 32
    devices = [
        Device(id=f"load-{n:04d}", name=f"Load {n}", source="gw-load", domain=("traffic", "environment", "energy")[n % 3],
               district=f"Quarter {n % 12}", latitude=13.7 + n // side / 300, longitude=109.1 + n % side / 300,
               sensors=(Sensor(metric=("intensity", "temperature", "phaseVoltage")[n % 3], interval=60.0),))
        for n in range(1000)
    ]  # fmt: skip
    with service.town.database() as database:
        registry.register(database, devices)
    columns = {"device": [d.id for d in devices], "metric": [d.sensors[0].metric for d in devices]}
    with visitor() as visit, connected(service.town, "gw-load") as client:
        page = visit.open(service.key)
        until(page, "Number(document.querySelector('#map').dataset.devices) >= 1000")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        page.evaluate("""() => {
            window.frames_ = 0;
            const next = () => { window.frames_ += 1; requestAnimationFrame(next); };
            next();
        }""")
        windows = []
        turn = 0
        for _ in range(3):
            start = measured(session)
            began = time.monotonic()
            for step in range(100):  # 5 s
                # Fifty sensors a message: each reports once a second, which is sixty times as often as they should.
                part = slice(turn % 20 * 50, turn % 20 * 50 + 50)
                turn += 1
                now = int(time.time() * 1000)
                payload = {name: values[part] for name, values in columns.items()} | {
                    "ts": [now] * 50,
                    "value": [200.0 + turn % 30] * 50,
                }
                client.publish("city/v1/gw-load/readings", json.dumps(payload), qos=1)
                page.wait_for_timeout(max(0.0, began + (step + 1) * 0.05 - time.monotonic()) * 1000)
            end = measured(session)
            windows.append((end["TaskDuration"] - start["TaskDuration"]) / (end["Timestamp"] - start["Timestamp"]))
            if windows[-1] < BUSY:
                break  # what else the machine does can only make it worse
        assert min(windows) < BUSY, windows
        assert page.evaluate("window.frames_") > 5 * 10 * len(windows)  # it did draw
        heard = page.eval_on_selector("#health-lag dd", "element => element.textContent")
        assert heard != "–"
        page.fill("#find", "Load 999")
        page.click("#tab-sensors")
        expect(page.locator('[data-device="load-0999"] .detail')).to_contain_text(f"{200 + turn % 30}")


def measured(session) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
