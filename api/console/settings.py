"""Settings of a city's console, in a module of their own so that reading settings needs no web server."""

import re
from dataclasses import dataclass
from typing import Final

#: The origin in a template of tile URLs; {s} stands for one of several host names.
_ORIGIN: Final = re.compile(r"(https?://)((?:\{s\}|[A-Za-z0-9-])(?:\{s\}|[A-Za-z0-9.-])*(?::\d{1,5})?)/")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsoleSettings:
    """Settings of the console."""

    tiles: str | None = None  # URL template of map tiles, with {z}, {x} and {y}; None: no background map
    credit: str = ""  # attribution of the tiles, shown on the map
    zone: str | None = None  # zone of all times that are shown; None: the browser's


def origin(tiles: str) -> str:
    """The origin of tiles, as a Content-Security-Policy names it; "" for the server of the page itself.

    Raises
    ------
    ValueError
        The text is not a template of tile URLs.

    Examples
    --------
    >>> origin("https://{s}.tiles.example/{z}/{x}/{y}.png")
    'https://*.tiles.example'
    >>> origin("/tiles/{z}/{x}/{y}.png")
    ''
    """
    if any(part not in tiles for part in ("{z}", "{x}", "{y}")):
        raise ValueError("expected a template with {z}, {x} and {y}, such as https://tiles.example/{z}/{x}/{y}.png")
    if tiles.startswith("/") and not tiles.startswith("//"):
        return ""
    match = _ORIGIN.match(tiles)
    if match is None or "{s}" in match[2].removeprefix("{s}."):
        raise ValueError("expected http(s):// and a host, where {s} may stand before the first dot, or a path on this server")
    return match[1] + match[2].replace("{s}", "*")
