"""Publishes dashboards to Grafana over its HTTP API: compares the present with the wanted state and writes only the differences.

Invariant: objects of citybeat are identified by their folder, by uids that begin with `citybeat-`, and by their tag or label;
nothing else is changed or removed. Fields that Grafana adds (ids, versions, empty fields) are no difference.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from grafana_client.api import GrafanaApi
from grafana_client.client import GrafanaClientError, GrafanaException

from citybeat.dashboards import alerts, boards, datasource
from citybeat.dashboards.board import TAG, Context, uid
from citybeat.dashboards.datasource import Database
from citybeat.dashboards.files import DashboardsError

#: The oldest supported version; before 10.4 a rule cannot name a receiver.
OLDEST: Final = (10, 4)
#: s without an answer after which Grafana counts as unreachable.
TIMEOUT: Final = 15.0
PREFIX: Final = uid("")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The wanted state of Grafana."""

    context: Context
    database: Database
    password: str | None  # of the database role; needed when the data source is created
    new_password: bool = False  # write the password even if nothing else changes: Grafana does not reveal the one it has


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One change."""

    verb: str  # create, update or remove
    what: str  # for people
    apply: Callable[[], Any]


@contextmanager
def connected(url: str, token: str) -> Iterator[GrafanaApi]:
    """A client of the Grafana at this URL.

    Raises
    ------
    DashboardsError
        The URL is malformed, no Grafana answers there, it is too old, or it refuses the token.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise DashboardsError(f"--url {url!r}: expected a URL such as https://grafana.example.org")
    # The library puts the path in front of "api" as it is, so it has to end with a slash.
    path = parts.path.strip("/")
    api: GrafanaApi = GrafanaApi.from_url(
        f"{parts.scheme}://{parts.netloc}/{path + '/' if path else ''}", credential=token, timeout=TIMEOUT
    )
    try:
        _check(api, url)
        yield api
    finally:
        api.client.s.close()


def _check(api: GrafanaApi, url: str) -> None:
    with _explained(f"ask {url}"):
        health = api.client.GET("/health")
        if not isinstance(health, dict) or "database" not in health:
            raise DashboardsError(f"{url} answers, but is not a Grafana; is a part of the path missing?")
        _check_version(str(health.get("version", "")))
        api.organization.get_current_organization()  # fails if the token is invalid


def plan(api: GrafanaApi, wanted: Wanted) -> list[Step]:
    """The changes that are needed, in the order of their dependencies; empty if everything is up to date. Nothing is written.

    Raises
    ------
    DashboardsError
        The token lacks rights, or an object with a uid of citybeat is not citybeat's, or came from files.
    """
    context = wanted.context
    with _explained("read the present state"):
        rules, gone_rules = _rules(api, context)
        return [
            *_folder(api),
            *_source(api, wanted),
            *_dashboards(api, context),
            *([] if context.contact is None else _contact(api, context.contact)),
            *rules,
            *gone_rules,
            *([] if context.contact is not None else _no_contact(api)),
        ]


def carry_out(steps: Sequence[Step], tell: Callable[[str], None]) -> None:
    """Make the changes.

    Raises
    ------
    DashboardsError
        Grafana refuses a change; those before it were made, and the next run continues there.
    """
    for step in steps:
        with _explained(f"{step.verb} {step.what}"):
            step.apply()
        tell(f"{step.verb}: {step.what}")


def _folder(api: GrafanaApi) -> Iterator[Step]:
    found = _or_none(lambda: api.folder.get_folder(alerts.FOLDER))
    if found is None:
        yield Step(
            verb="create",
            what=f"folder {alerts.FOLDER}",
            apply=lambda: api.folder.create_folder(alerts.FOLDER, uid=alerts.FOLDER),
        )


def _source(api: GrafanaApi, wanted: Wanted) -> Iterator[Step]:
    what = f"data source {datasource.NAME}"
    # The city's Grafana may have another default data source.
    definition = {**datasource.definition(wanted.database), "isDefault": False}
    found = _or_none(lambda: api.datasource.get_datasource_by_uid(definition["uid"]))
    secret = {} if wanted.password is None else {"secureJsonData": {"password": wanted.password}}
    if found is None:
        if wanted.password is None:
            raise DashboardsError(
                "the data source has to be created, which needs the password of the role grafana: --database-password-file"
            )
        yield Step(verb="create", what=what, apply=lambda: api.datasource.create_datasource({**definition, **secret}))
        return
    if found.get("readOnly"):
        raise DashboardsError(f"{what} came from provisioning files; use either files or publishing for one Grafana, not both")
    definition["isDefault"] = found.get("isDefault", False)
    if not _holds(found, definition) or wanted.new_password:
        if wanted.new_password and wanted.password is None:
            raise DashboardsError("--new-password needs --database-password-file")
        body = {**definition, **secret}
        yield Step(verb="update", what=what, apply=lambda: api.datasource.update_datasource_by_uid(definition["uid"], body))


def _dashboards(api: GrafanaApi, context: Context) -> Iterator[Step]:
    made = {board["uid"]: board for board in boards.build(context).values()}
    for number, board in made.items():
        what = f"dashboard {number} ({board['title']})"
        body = {"dashboard": board, "folderUid": alerts.FOLDER, "overwrite": True, "message": "citybeat dashboards publish"}
        found = _or_none(partial(api.dashboard.get_dashboard, number))
        if found is not None:
            if found["meta"].get("provisioned"):
                raise DashboardsError(
                    f"{what} came from provisioning files; use either files or publishing for one Grafana, not both"
                )
            if TAG not in found["dashboard"].get("tags", []):
                raise DashboardsError(f"{what}: another dashboard has this uid; it lacks the tag {TAG!r}, so it is not changed")
            there = {key: value for key, value in found["dashboard"].items() if key not in {"id", "version"}}
            if there == board and found["meta"].get("folderUid") == alerts.FOLDER:
                continue
        verb = "create" if found is None else "update"
        yield Step(verb=verb, what=what, apply=partial(api.dashboard.update_dashboard, body))
    for each in api.search.search_dashboards(tag=TAG, type_="dash-db"):
        number = each["uid"]
        if number not in made and number.startswith(PREFIX) and each.get("folderUid") == alerts.FOLDER:
            yield Step(
                verb="remove",
                what=f"dashboard {number} ({each['title']})",
                apply=partial(api.dashboard.delete_dashboard, number),
            )


def _rules(api: GrafanaApi, context: Context) -> tuple[list[Step], list[Step]]:
    """Changes of rules, and removals of rules that no longer exist."""
    place = {"folderUID": alerts.FOLDER, "ruleGroup": alerts.GROUP, "orgID": 1}
    made = {rule["uid"]: {**rule, **place} for rule in alerts.group(context)}
    there = {rule["uid"]: rule for rule in api.alertingprovisioning.get_alertrules_all()}
    key, value = alerts.LABEL
    changes = []
    for number, rule in made.items():
        what = f"alert rule {number} ({rule['title']})"
        found = there.get(number)
        if found is None:
            changes.append(Step(verb="create", what=what, apply=partial(api.alertingprovisioning.create_alertrule, rule)))
            continue
        if (found.get("labels") or {}).get(key) != value:
            raise DashboardsError(f"{what}: another rule has this uid; it lacks the label {key}={value}, so it is not changed")
        # The organisation is that of the token. A receiver to be removed is no field of `rule`, so it is compared separately.
        compared = {name: part for name, part in rule.items() if name != "orgID"}
        if not _holds(found, compared) or bool(found.get("notification_settings")) != ("notification_settings" in rule):
            change = partial(api.alertingprovisioning.update_alertrule, number, rule)
            changes.append(Step(verb="update", what=what, apply=change))
    gone = [
        Step(
            verb="remove",
            what=f"alert rule {number} ({rule['title']})",
            apply=partial(api.alertingprovisioning.delete_alertrule, number),
        )
        for number, rule in there.items()
        if number not in made
        and number.startswith(PREFIX)
        and rule.get("folderUID") == alerts.FOLDER
        and (rule.get("labels") or {}).get(key) == value
    ]
    return changes, gone


def _contact(api: GrafanaApi, address: str) -> Iterator[Step]:
    point = alerts.contact(address)
    what = f"contact point {point['name']} ({address})"
    found = _our_contact(api)
    if found is None:
        yield Step(verb="create", what=what, apply=lambda: api.alertingprovisioning.create_contactpoint(point))
    elif not _holds(found, point):
        yield Step(verb="update", what=what, apply=lambda: api.alertingprovisioning.update_contactpoint(point["uid"], point))


def _no_contact(api: GrafanaApi) -> Iterator[Step]:
    if _our_contact(api) is not None:
        yield Step(
            verb="remove",
            what=f"contact point {alerts.CONTACT}",
            apply=lambda: api.alertingprovisioning.delete_contactpoint(alerts.CONTACT),
        )


def _our_contact(api: GrafanaApi) -> Mapping[str, Any] | None:
    points = api.alertingprovisioning.get_contactpoints(name=alerts.CONTACT)
    return next((point for point in points if point.get("uid") == alerts.CONTACT), None)


def _holds(there: Any, ours: Any) -> bool:
    """True if `there` has every field of `ours` with its value; it may have more."""
    if isinstance(ours, Mapping):
        return isinstance(there, Mapping) and all(key in there and _holds(there[key], value) for key, value in ours.items())
    if isinstance(ours, list):
        return isinstance(there, list) and len(there) == len(ours) and all(map(_holds, there, ours))
    return bool(there == ours)


def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except GrafanaClientError as exc:
        if exc.status_code == 404:
            return None
        raise


def _check_version(version: str) -> None:
    numbers = version.partition("-")[0].split(".")
    if len(numbers) >= 2 and all(number.isdigit() for number in numbers[:2]):  # some servers hide their version
        found = (int(numbers[0]), int(numbers[1]))
        if found < OLDEST:
            raise DashboardsError(f"this is Grafana {version}; {OLDEST[0]}.{OLDEST[1]} or newer is needed")


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Turn errors of Grafana or the network into one line that says what to do."""
    try:
        yield
    except GrafanaException as exc:
        if exc.status_code == 401:
            raise DashboardsError(
                "Grafana does not know the token: create one for a service account, and pass it with --token-file"
            ) from exc
        if exc.status_code == 403:
            raise DashboardsError(f"the token may not {doing}: its service account needs the role Admin") from exc
        raise DashboardsError(f"cannot {doing}: {exc.message or exc}") from exc
    except (OSError, ValueError) as exc:  # the network's errors are OSErrors; an answer that is no JSON is a ValueError
        raise DashboardsError(f"cannot {doing}: no Grafana answers there ({type(exc).__name__})") from exc
