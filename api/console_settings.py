"""What a city decides about its console. Apart from it, so that whoever reads the settings needs no web server."""

import re
from dataclasses import dataclass
from typing import Final

#: A server's address in a template of tiles; {s} stands for one of several.
_ORIGIN: Final = re.compile(r"(https?://)((?:\{s\}|[A-Za-z0-9-])(?:\{s\}|[A-Za-z0-9.-])*(?::\d{1,5})?)/")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsoleSettings:
    """What a city decides about its console."""

    tiles: str | None = None  # template of map tiles, with {z}, {x} and {y}; None: no map below the sensors
    credit: str = ""  # who made them, shown on the map
    zone: str | None = None  # whose clocks are shown; None: the browser's


def origin(tiles: str) -> str:
    """Where tiles come from, as a Content-Security-Policy names it; "" for our own host.

    Raises
    ------
    ValueError
        It is no template of tiles.

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
        raise ValueError("expected http(s):// and a host, where {s} may stand before the first dot, or a path of our own host")
    return match[1] + match[2].replace("{s}", "*")
