"""Who may look, and what becomes of a page when something is in its way."""

import json
from collections.abc import Callable

import paho.mqtt.client as mqtt
from playwright.sync_api import Browser, Page, expect

from tests.acceptance.conftest import PATIENCE, Service, wait_for
from tests.acceptance.console import browser as browsers
from tests.acceptance.console.browser import Visit
from tests.acceptance.console.conftest import choose, tell, until


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


def test_a_key_that_ends_is_asked_for_again(chromium: Browser, service: Service, source: mqtt.Client):
    key = service.town.run("keys", "create", "brief", "--scope", "read").stdout.strip()
    with browsers.visit(chromium, service.url) as visit:
        page = visit.open(key)
        service.town.run("keys", "revoke", key)
        expect(page.locator("#key-dialog")).to_be_visible(timeout=PATIENCE * 1000)
        expect(page.locator("#key-error")).to_contain_text("refused")
        page.fill("#key-input", service.key)
        page.click("#key-form [type=submit]")
        expect(page.locator("#key-dialog")).to_be_hidden()
        page.wait_for_selector("body[data-ready=yes]")
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


def test_a_page_that_cannot_load_tries_again(chromium: Browser, service: Service, source: mqtt.Client):
    problem = json.dumps({"detail": "the database is away"})
    with browsers.visit(chromium, service.url) as visit:
        visit.page.route(
            "**/v1/states*", lambda route: route.fulfill(status=503, body=problem, content_type="application/problem+json")
        )
        visit.page.goto(f"{service.url}/#key={service.key}")
        expect(visit.page.locator("#trouble")).to_contain_text("the database is away")
        visit.page.unroute("**/v1/states*")
        visit.page.wait_for_selector("body[data-ready=yes]")
        expect(visit.page.locator("#trouble")).to_be_hidden()


def test_a_reset_is_made_good(chromium: Browser, service: Service, source: mqtt.Client):
    """Events between two visits are gone: the page reads everything anew, and follows from there."""
    tell(source, "con-live", "temperature", 27.0)
    asked: list[str] = []
    with browsers.visit(chromium, service.url) as visit:
        page = visit.page
        text = 'retry: 10\nid: x\n\nevent: reset\ndata: {"reason":"dropped","resume_from":"x"}\nid: x\n\n'
        page.route("**/v1/stream", lambda route: route.fulfill(body=text, content_type="text/event-stream"), times=1)
        page.on("request", lambda request: asked.append(request.url))
        visit.open(service.key)
        wait_for(lambda: page.wait_for_timeout(20) or sum("/v1/latest" in url for url in asked) == 2)
        choose(page, "con-live")
        tell(source, "con-live", "temperature", 28.0)
        expect(page.locator('[data-metric="temperature"] .value')).to_contain_text("28 °C")


def test_tiles_that_a_city_has(visitor: Callable[..., Visit], service: Service, source: mqtt.Client):
    look = {"tiles": "/console/icon.svg?{z}/{x}/{y}", "credit": "<b>Somebody</b>", "zone": "Asia/Ho_Chi_Minh", "version": "1"}
    with visitor() as visit:
        visit.page.route("**/console/settings.json", lambda route: route.fulfill(json=look))
        page = visit.open(service.key)
        expect(page.locator("#map .leaflet-tile-loaded").first).to_be_attached()
        expect(page.locator("#map .leaflet-control-attribution")).to_have_text("<b>Somebody</b>")
        expect(page.locator("#zone")).to_contain_text("Asia/Ho_Chi_Minh")


def test_streams_are_read_as_the_standard_says(page: Page):
    """In pieces of any size: comments, several lines of data, ids of blocks without data, carriage returns."""
    text = (
        ": hello\nretry: 5\nid: a\n\nevent: readings\r\ndata: {\r\ndata: }\r\nid: b\r\n\r\n"
        ": beat\nid: c\n\ndata:x\n\nevent: half\ndata: y\n"
    )
    for size in (1, 3, len(text)):
        told, last = page.evaluate(
            """async ([text, size]) => {
                const { Parser } = await import("/console/stream.js");
                const told = [];
                const parser = new Parser((name, data, id) => told.push([name, data, id]));
                for (let i = 0; i < text.length; i += size) parser.feed(text.slice(i, i + size));
                return [told, parser.id];
            }""",
            [text, size],
        )
        assert told == [["readings", "{\n}", "b"], ["message", "x", "c"]]
        assert last == "c"


def test_what_flags_say_of_a_reading(page: Page):
    judged = page.evaluate(
        """async (all) => {
            const { judged } = await import("/console/store.js");
            return all.map(judged);
        }""",
        [[], ["late"], ["suspect"], ["range", "step"], ["step"], ["stuck"], ["manual_bad"], ["range", "manual_good"]],
    )
    assert judged == ["ok", "ok", "unusual", "limit", "bad", "stuck", "bad", "ok"]
