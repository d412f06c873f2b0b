"""Dashboards as files: what Grafana's provisioning reads from its disk."""

import json
from pathlib import Path
from typing import Any, Final

from dashboards import boards
from dashboards.board import Context
from devices.errors import CitybeatError

#: Where dashboards lie below the directory.
FOLDER: Final = "dashboards"


class DashboardsError(CitybeatError):
    """Dashboards cannot be written or published."""


def contents(context: Context) -> dict[str, str]:
    """Text of every file, by its path below the directory."""
    return {f"{FOLDER}/{name}.json": as_text(made) for name, made in boards.build(context).items()}


def write(out: Path, context: Context) -> list[Path]:
    """Write them.

    Raises
    ------
    DashboardsError
        The directory cannot be written.
    """
    written = []
    try:
        for name, text in contents(context).items():
            file = out / name
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".{file.name}")
            draft.write_text(text, "utf-8")
            draft.replace(file)  # Grafana reads while we write
            written.append(file)
    except OSError as exc:
        raise DashboardsError(f"cannot write dashboards to {out}: {exc}") from exc
    return written


def as_text(thing: Any) -> str:
    """JSON for people and for comparing."""
    return json.dumps(thing, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
