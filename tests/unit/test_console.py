"""The console's files: what they say in both languages, how legible they are, and how they are served."""

import asyncio
import gzip
import json
import re
from pathlib import Path

import httpx
import pytest

from citybeat.api.app import create_app
from citybeat.api.console import files
from citybeat.api.console.settings import ConsoleSettings, origin
from citybeat.devices import flags
from citybeat.devices.catalogue import Domain, builtin

FOLDER = Path(files.__file__).parent
SOURCES = {path.name: path.read_text("utf-8") for path in FOLDER.iterdir() if path.suffix in {".js", ".html", ".css"}}
TEXTS = json.loads((FOLDER / "texts.json").read_text("utf-8"))
SCRIPTS = "\n".join(text for name, text in SOURCES.items() if name.endswith(".js"))
STATES = ["limit", "bad", "stuck", "overdue", "silent", "unusual", "ok", "waiting"]
#: Keys that are put together, by their beginning, and what may follow.
FAMILIES = {
    "domain.": {domain.value for domain in Domain},
    "state.": set(STATES),
    "meaning.": set(STATES),
    "why.": set(STATES) - {"ok", "waiting"},
    "flag.": {flag.name.lower() for flag in flags.Flag if flag.name},
    "range.": set(re.findall(r'^  "(\w+)": \{ length', SOURCES["chart.js"], re.MULTILINE)),
    "aggregate.": {"value", "mean", "sum", "increase"},
    "ledger.": {
        "received",
        "stored",
        "duplicate",
        "conflict",
        "missing",
        "quarantined",
        "balanced",
        "unbalanced",
        "source",
        "all",
        "why",
    },
    "health.": {"ready", "unready", "away"},
    "key.refused.": {"401", "403"},
}


def serve(console=None):
    url = "postgresql://nobody@127.0.0.1:1/none"
    return create_app(database_url=url, catalogue=builtin(), rate=6_000, version="1.2.3", console=console)


def get(url, console=None, **headers):
    async def send():
        transport = httpx.ASGITransport(app=serve(console))
        async with httpx.AsyncClient(transport=transport, base_url="http://citybeat.test") as client:
            return await client.get(url, headers=headers)

    return asyncio.run(send())


def test_every_text_is_there_in_both_languages():
    for key, said in TEXTS.items():
        assert set(said) == {"en", "vi"}, key
        assert all(text.strip() for text in said.values()), key
        assert len({frozenset(re.findall(r"\{\w+\}", text)) for text in said.values()}) == 1, key


def test_every_text_that_is_used_exists_and_every_text_is_used():
    named = set(re.findall(r"""\bt\("([\w.]+)\"""", SCRIPTS))
    named |= set(re.findall(r"""data-(?:text|label|placeholder)="([\w.]+)\"""", SOURCES["index.html"]))
    named |= set(re.findall(r"""t\(\w+ \? "([\w.]+)" : "[\w.]+"\)""", SCRIPTS)) | set(
        re.findall(r"""t\(\w+ \? "[\w.]+" : "([\w.]+)"\)""", SCRIPTS)
    )
    for beginning, ends in FAMILIES.items():
        assert f"`{beginning}${{" in SCRIPTS, beginning
        named |= {beginning + end for end in ends}
    assert named - set(TEXTS) == set()
    assert set(TEXTS) - named == set()
    begun = set(re.findall(r"t\(`([\w.]+?)\$\{", SCRIPTS))
    assert begun == set(FAMILIES)


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Ratio of two colours, as WCAG 2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_what_wcag_defines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(theme):
    block = re.search(rf'\[data-theme="{theme}"\] \{{(.*?)\n\}}', SOURCES["console.css"], re.DOTALL)
    assert block
    palette = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", block[1]))
    for text in ["ink", "muted", "accent", *STATES]:
        for ground in ["surface", "bg", "hover"]:
            assert contrast(palette[text], palette[ground]) >= 4.5, (theme, text, ground)
    for text in ["ink", "muted"]:
        assert contrast(palette[text], palette["area"]) >= 4.5
    assert contrast(palette["accent-ink"], palette["accent"]) >= 4.5
    for state in STATES:  # the letter within a mark, and the mark on the map
        assert contrast(palette["surface"], palette[state]) >= 4.5
        assert contrast(palette[state], palette["area"]) >= 3


def test_nothing_makes_markup_out_of_texts():
    for name, text in SOURCES.items():
        assert not re.search(r"innerHTML\s*[+]?=|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), name
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|\bstyle=", SOURCES["index.html"])


def test_nothing_comes_from_another_host():
    for name, text in SOURCES.items():
        assert re.findall(r"""(?:https?:)?//[\w.-]+\.\w+/""", text.replace("http://www.w3.org/2000/svg", "")) == [], name


@pytest.mark.parametrize("name", ["", *(f"console/{name}" for name in [*SOURCES, "texts.json", "icon.svg", *files._LIBRARIES])])
def test_every_file_is_served_with_its_version_and_a_policy(name):
    whole = get(f"/{name}", **{"accept-encoding": "identity"})
    assert whole.status_code == 200
    assert "content-encoding" not in whole.headers
    policy = whole.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert whole.headers["x-content-type-options"] == "nosniff"
    squeezed = get(f"/{name}", **{"accept-encoding": "gzip"})
    assert squeezed.content == whole.content
    again = get(f"/{name}", **{"if-none-match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert get(f"/{name}", **{"if-none-match": '"other"'}).status_code == 200


def test_large_files_are_compressed_once_and_well():
    found = files._file("lib/plotly.js")
    assert found
    assert found.compressed
    assert gzip.decompress(found.compressed) == found.content
    assert len(found.compressed) < len(found.content) / 2


@pytest.mark.parametrize("name", ["__init__.py", "../app.py", "%2e%2e/app.py", "lib/", "lib/plotly.py", "nothing.js"])
def test_nothing_else_is_served(name):
    answer = get(f"/console/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_the_city_decides():
    console = ConsoleSettings(tiles="https://{s}.tiles.example:8443/{z}/{x}/{y}.png", credit="© somebody", zone="Asia/Ho_Chi_Minh")
    assert get("/console/settings.json", console).json() == {
        "tiles": "https://{s}.tiles.example:8443/{z}/{x}/{y}.png",
        "credit": "© somebody",
        "zone": "Asia/Ho_Chi_Minh",
        "version": "1.2.3",
    }
    assert "img-src 'self' data: https://*.tiles.example:8443;" in get("/", console).headers["content-security-policy"]
    assert get("/console/settings.json").json()["tiles"] is None


@pytest.mark.parametrize(
    "tiles",
    [
        "https://tiles.example/{z}/{x}.png",
        "tiles.example/{z}/{x}/{y}.png",
        "//tiles.example/{z}/{x}/{y}.png",
        "javascript:alert(1)/{z}/{x}/{y}",
        "https://tiles.example;script-src *//{z}/{x}/{y}.png",
        "https://tiles.{s}/{z}/{x}/{y}.png",
        "https:///{z}/{x}/{y}.png",
    ],
)
def test_what_is_no_template_of_tiles_is_refused(tiles):
    with pytest.raises(ValueError, match="expected"):
        origin(tiles)
