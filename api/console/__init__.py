"""The operators' console: one page, live over /v1/stream, served from files of this folder and of packages.

Law: the page gets no rights from here. It asks the API as any client does, with a key that a person shows; what is served here is
the same for everybody and says nothing of the city. Nothing comes from, or goes to, another host, unless the city names a server of
map tiles.
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

from citybeat.api.console_settings import ConsoleSettings, origin
from citybeat.api.http import problems

_HERE: Final = Path(__file__).parent
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
#: What others wrote: the package that brings it, and the file in it.
_LIBRARIES: Final = {
    "lib/leaflet.js": ("js_lib_leaflet", "static/js_lib_leaflet/leaflet.js"),
    "lib/leaflet.css": ("js_lib_leaflet", "static/js_lib_leaflet/leaflet.css"),
    "lib/plotly.js": ("plotly", "package_data/plotly.min.js"),
}
#: Of an empty inline style, and of no other: plotly.js makes one and fills it by rules, which a policy does not forbid.
_EMPTY_STYLE: Final = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
#: Bytes from which a file is compressed.
_COMPRESS_FROM: Final = 1_024


class _File(NamedTuple):
    content: bytes
    compressed: bytes | None  # None: it is no shorter
    etag: str
    kind: str


def router(look: ConsoleSettings, version: str) -> APIRouter:
    """The routes `/` and `/console/…`; they need no key, and are no part of the API's description."""
    routes = APIRouter(include_in_schema=False)
    settings = orjson.dumps({"tiles": look.tiles, "credit": look.credit, "zone": look.zone, "version": version})
    policy = _policy(origin(look.tiles) if look.tiles else "")

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return await _served(request, "index.html", policy)

    @routes.api_route("/console/settings.json", methods=["GET", "HEAD"])
    async def look_of_it() -> Response:
        return Response(settings, media_type="application/json", headers={"cache-control": "no-cache"})

    @routes.api_route("/console/{name:path}", methods=["GET", "HEAD"])
    async def file(request: Request, name: str) -> Response:
        return await _served(request, name, policy)

    return routes


async def _served(request: Request, name: str, policy: str) -> Response:
    found = await anyio.to_thread.run_sync(_file, name)  # read and compressed once
    if found is None:
        raise problems.not_found(f"the console has no file {name!r}")
    headers = {
        "etag": found.etag,
        "cache-control": "no-cache",  # kept, but asked whether it is still that: a page never mixes two versions
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
    """Every file that is served, by name: nothing that a client sends becomes a path."""
    ours = {path.name: path for path in _HERE.iterdir() if path.suffix in _TYPES}
    return ours | {name: _package(package) / file for name, (package, file) in _LIBRARIES.items()}


def _package(name: str) -> Path:
    """Where a package lies; it is not imported, we want its files only."""
    spec = util.find_spec(name)
    if spec is None or spec.origin is None:
        raise metadata.PackageNotFoundError(name)
    return Path(spec.origin).parent
