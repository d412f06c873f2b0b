"""Writes everything as files for Grafana's provisioning. All files are JSON, which is also valid YAML."""

import json
from pathlib import Path
from typing import Any, Final

from citybeat.dashboards import alerts, boards, datasource
from citybeat.dashboards.board import Context
from citybeat.dashboards.datasource import Database
from citybeat.devices.errors import CitybeatError

#: Grafana's default directory of provisioning files.
MOUNT: Final = "/etc/grafana/provisioning"
#: Subdirectory of the dashboards. It must not be the one of the provider file, where Grafana would read each file as a provider.
JSON: Final = "dashboards/citybeat"


class DashboardsError(CitybeatError):
    """Dashboards cannot be written or published."""


def contents(context: Context, database: Database, *, mount: str = MOUNT) -> dict[str, str]:
    """Text of every file, by its path below the directory; `mount`: path of the directory as Grafana sees it."""
    provider = {
        "name": "citybeat",
        "folder": alerts.FOLDER,
        "folderUid": alerts.FOLDER,
        "type": "file",
        "disableDeletion": False,
        "allowUiUpdates": False,  # manual changes would be lost with the next build
        "updateIntervalSeconds": 60,
        "options": {"path": f"{mount}/{JSON}"},
    }
    source = {**datasource.definition(database), "editable": False, "secureJsonData": {"password": datasource.PASSWORD}}
    groups = [
        {
            "orgId": 1,
            "name": alerts.GROUP,
            "folder": alerts.FOLDER,
            "interval": f"{alerts.EVERY}s",
            # Grafana expands no variables in annotations (since 9.2), since their templates contain dollars.
            "rules": [{**_escaped(rule), "annotations": rule["annotations"]} for rule in alerts.group(context)],
        }
    ]
    alerting: dict[str, Any] = {"apiVersion": 1, "groups": groups}
    if context.contact is not None:
        point = alerts.contact(context.contact)
        receiver = _escaped({key: point[key] for key in ("uid", "type", "settings")})
        alerting["contactPoints"] = [{"orgId": 1, "name": point["name"], "receivers": [receiver]}]
    return {
        "datasources/citybeat.yaml": as_text({"apiVersion": 1, "datasources": [source]}),
        "dashboards/citybeat.yaml": as_text({"apiVersion": 1, "providers": [provider]}),
        "alerting/citybeat.yaml": as_text(alerting),
        **{f"{JSON}/{name}.json": as_text(made) for name, made in boards.build(context).items()},
    }


def write(out: Path, context: Context, database: Database, *, mount: str = MOUNT) -> list[Path]:
    """Write all files, and remove dashboards of earlier builds that no longer exist.

    Raises
    ------
    DashboardsError
        The directory cannot be written.
    """
    written = []
    try:
        for name, text in contents(context, database, mount=mount).items():
            file = out / name
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".{file.name}.draft")
            draft.write_text(text, "utf-8")
            draft.replace(file)  # Grafana may be reading: it must never see half a file
            written.append(file)
        for file in (out / JSON).glob("*.json"):
            if file not in written:
                file.unlink()
    except OSError as exc:
        raise DashboardsError(f"cannot write dashboards to {out}: {exc}") from exc
    return written


def as_text(thing: Any) -> str:
    """JSON that is readable and comparable: indented, keys sorted."""
    return json.dumps(thing, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _escaped(thing: Any) -> Any:
    """Double every dollar: in files of alerting rules Grafana expands $NAME from its environment, and $$ is a dollar."""
    if isinstance(thing, dict):
        return {name: _escaped(part) for name, part in thing.items()}
    if isinstance(thing, list):
        return [_escaped(part) for part in thing]
    return thing.replace("$", "$$") if isinstance(thing, str) else thing
