"""Routes of the console's files: one page, live over /v1/stream, from this folder and from packages.

Invariant: serving the page gives it no rights. It uses the API like any other client, with a key that a person enters; its files
are the same for everybody and contain nothing about the city. Nothing is loaded from, or sent to, another host, unless the settings
name a server of map tiles.
"""

import gzip
import hashlib
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Final, NamedTuple

import anyio.to_thread
import orjson
from fastapi import APIRouter, Request, Response

from citybeat.api.console.settings import ConsoleSettings, origin
from citybeat.api.http import problems

_HERE: Final = Path(__file__).parent
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
#: Libraries: the package that contains each, and the file in it.
_LIBRARIES: Final = {
    "lib/leaflet.js": ("js_lib_leaflet", "static/js_lib_leaflet/leaflet.js"),
    "lib/leaflet.css": ("js_lib_leaflet", "static/js_lib_leaflet/leaflet.css"),
    "lib/plotly.js": ("plotly", "package_data/plotly.min.js"),
}
#: Hash of the empty inline style, the only one that is allowed: plotly.js makes one and fills it by script, which a policy permits.
_EMPTY_STYLE: Final = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
#: Bytes from which a file is compressed.
_COMPRESS_FROM: Final = 1_024


class _File(NamedTuple):
    content: bytes
    compressed: bytes | None  # None: compressing does not make it shorter
    etag: str
    kind: str


def router(console: ConsoleSettings, version: str) -> APIRouter:
    """The routes `/` and `/console/…`; they need no key, and are not in the OpenAPI document."""
    routes = APIRouter(include_in_schema=False)
    settings = orjson.dumps({"tiles": console.tiles, "credit": console.credit, "zone": console.zone, "version": version})
    policy = _policy(origin(console.tiles) if console.tiles else "")

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return await _served(request, "index.html", policy)

    @routes.api_route("/console/settings.json", methods=["GET", "HEAD"])
    async def settings_file() -> Response:
        return Response(settings, media_type="application/json", headers={"cache-control": "no-cache"})

    @routes.api_route("/console/{name:path}", methods=["GET", "HEAD"])
    async def file(request: Request, name: str) -> Response:
        return await _served(request, name, policy)

    return routes


async def _served(request: Request, name: str, policy: str) -> Response:
    found = await anyio.to_thread.run_sync(_file, name)  # reads and compresses the file the first time
    if found is None:
        raise problems.not_found(f"the console has no file {name!r}")
    headers = {
        "etag": found.etag,
        "cache-control": "no-cache",  # browsers keep it but revalidate it, so that a page never mixes two versions
        "vary": "Accept-Encoding",
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "strict-origin-when-cross-origin",
        "content-type": found.kind,
    }
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if found.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.compressed, headers={**headers, "content-encoding": "gzip"})
    return Response(found.content, headers=headers)


def _policy(tiles: str) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            f"style-src 'self' '{_EMPTY_STYLE}'",
            "connect-src 'self'",
            f"img-src 'self' data: {tiles}".rstrip(),
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


@cache
def _file(name: str) -> _File | None:
    path = _paths().get(name)
    if path is None:
        return None
    content = path.read_bytes()
    compressed = gzip.compress(content, 6, mtime=0) if len(content) >= _COMPRESS_FROM else None
    return _File(
        content=content,
        compressed=compressed if compressed is not None and len(compressed) < len(content) else None,
        etag=f'"{hashlib.sha256(content).hexdigest()[:24]}"',
        kind=_TYPES[path.suffix],
    )


@cache
def _paths() -> dict[str, Path]:
    """Every file that is served, by name, so that no part of a request becomes a path."""
    ours = {path.name: path for path in _HERE.iterdir() if path.suffix in _TYPES}
    return ours | {name: _package(package) / file for name, (package, file) in _LIBRARIES.items()}


def _package(name: str) -> Path:
    """The folder of a package, which is not imported: only its files are needed."""
    spec = util.find_spec(name)
    if spec is None or spec.origin is None:
        raise metadata.PackageNotFoundError(name)
    return Path(spec.origin).parent
