"""Alert rules: query, threshold and instructions. Pure.

A query returns rows of one number and of texts that identify the row. Each row above the threshold is an alert of its own. A query
without rows is no alert: nothing is monitored that could be wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from citybeat.dashboards import sql
from citybeat.dashboards.board import Context, uid
from citybeat.dashboards.panels import DATASOURCE
from citybeat.devices.ledger import OUTCOMES

#: Names of the folder, rule group and contact point in Grafana.
FOLDER: Final = "citybeat"
GROUP: Final = "citybeat"
CONTACT: Final = "citybeat"
#: s between two evaluations.
EVERY: Final = 60
#: A label of every rule of citybeat, which identifies it.
LABEL: Final = ("made_by", "citybeat")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One alert rule."""

    name: str  # part of the keys of its texts, and of its uid
    query: str
    above: float
    lasting: str  # duration for which the condition has to hold
    severity: str = "warning"
    of_prometheus: bool = False


def rules(context: Context) -> list[Rule]:
    """All rules; those on metrics of processes only if there is a Prometheus."""
    found = [
        Rule(
            name="limit",
            query=f"SELECT device, metric, span, ratio FROM limits_now({sql.quoted(context.standard)})",
            above=1.0,
            lasting="0s",
        ),
        Rule(
            name="overdue",
            query=(
                "SELECT source, count(*) FILTER (WHERE severity > 2)::float8 AS overdue\n"
                "FROM sensor_board GROUP BY source ORDER BY source"
            ),
            above=0.0,
            lasting="5m",
        ),
        Rule(
            name="ledger",
            query=(
                "SELECT s.name AS source,\n"
                f"    abs(t.received - {' - '.join(f't.{name}' for name in OUTCOMES)})::float8 AS difference\n"
                "FROM ledger_totals t JOIN sources s ON s.id = t.source_id ORDER BY 1"
            ),
            above=0.0,
            lasting="0s",
            severity="critical",
        ),
        Rule(
            name="lag",
            # A minute is stored by its beginning, so 60 s are subtracted. A city that never sent anything causes no alert.
            query="SELECT extract(epoch FROM now() - max(minute))::float8 - 60 AS age FROM ledger HAVING count(*) > 0",
            above=300.0,
            lasting="0s",
            severity="critical",
        ),
        Rule(
            name="quarantine",
            query=(
                "SELECT s.name AS source, count(q.id)::float8 AS messages\n"
                "FROM sources s LEFT JOIN quarantine q ON q.source_id = s.id AND q.received_at > now() - INTERVAL '15 minutes'\n"
                "GROUP BY s.name ORDER BY s.name"
            ),
            above=100.0,
            lasting="0s",
        ),
    ]
    if context.prometheus is not None:
        found += [
            Rule(
                name="spool",
                query="max(citybeat_ingest_spooled_oldest_seconds)",
                above=600.0,
                lasting="1m",
                severity="critical",
                of_prometheus=True,
            ),
            Rule(
                name="commit",
                query="histogram_quantile(0.95, sum by (le) (rate(citybeat_ingest_lag_seconds_bucket[5m])))",
                above=60.0,
                lasting="5m",
                of_prometheus=True,
            ),
        ]
    return found


def group(context: Context) -> list[dict[str, Any]]:
    """The rules in Grafana's format, which files and API share."""
    return [_rule(context, rule) for rule in rules(context)]


def contact(address: str) -> dict[str, Any]:
    """The contact point of alerts: a webhook for a URL, otherwise e-mail."""
    if address.startswith(("http://", "https://")):
        return {"uid": CONTACT, "name": CONTACT, "type": "webhook", "settings": {"url": address, "httpMethod": "POST"}}
    return {"uid": CONTACT, "name": CONTACT, "type": "email", "settings": {"addresses": address, "singleEmail": True}}


def _rule(context: Context, rule: Rule) -> dict[str, Any]:
    words = context.words
    made: dict[str, Any] = {
        "uid": uid(f"alert-{rule.name}"),
        "title": words(f"alert.{rule.name}"),
        "condition": "C",
        "data": [_asked(context, rule), _threshold(rule.above)],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.lasting,
        "annotations": {"summary": words(f"alert.{rule.name}.summary"), "description": words(f"alert.{rule.name}.todo")},
        "labels": {"severity": rule.severity, LABEL[0]: LABEL[1]},
        "isPaused": False,
    }
    if context.contact is not None:
        # The rule names its receiver: the tree of notification policies belongs to the city and is not changed.
        made["notification_settings"] = {"receiver": CONTACT}
    return made


def _asked(context: Context, rule: Rule) -> dict[str, Any]:
    if rule.of_prometheus:
        model: Mapping[str, Any] = {"refId": "A", "expr": rule.query, "instant": True, "range": False}
        source = context.prometheus
    else:
        model = {"refId": "A", "rawSql": rule.query, "format": "table", "editorMode": "code", "rawQuery": True}
        source = DATASOURCE.uid
    return {
        "refId": "A",
        "datasourceUid": source,
        "relativeTimeRange": {"from": 3600, "to": 0},
        "model": {**model, "intervalMs": 60_000, "maxDataPoints": 1_000},
    }


def _threshold(above: float) -> dict[str, Any]:
    condition: Sequence[Mapping[str, Any]] = [{"type": "query", "evaluator": {"type": "gt", "params": [above]}}]
    model = {"refId": "C", "type": "threshold", "expression": "A", "conditions": condition}
    return {
        "refId": "C",
        "datasourceUid": "__expr__",
        "relativeTimeRange": {"from": 3600, "to": 0},
        "model": {**model, "datasource": {"type": "__expr__", "uid": "__expr__"}, "intervalMs": 60_000, "maxDataPoints": 1_000},
    }
