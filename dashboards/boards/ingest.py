"""Ingest: balance of the ledger, rates, delays, messages that never came, and backlog.

All of this comes from the database, so that it works without Prometheus. Figures that only the processes know (workers, spool, time
from receipt to commit) are added where there is a Prometheus; otherwise a text says what is missing and how to get it.
"""

from typing import Any, Final

from citybeat.dashboards import panels, sql
from citybeat.dashboards.board import Board, Context
from citybeat.dashboards.panels import GREEN, ORANGE, RED, NumberFormat, Overrides, Prom, Sql, named
from citybeat.devices.ledger import OUTCOMES

_SUM: Final = " + ".join(f"t.{name}" for name in OUTCOMES)
_STEP: Final = f"chart_bucket($__interval_ms, {sql.FROM}, {sql.TO})"
_MINUTES: Final = f"(extract(epoch FROM {_STEP}) / 60)"
_RANGE: Final = f"l.minute BETWEEN {sql.FROM} AND {sql.TO}"


def board(context: Context) -> dict[str, Any]:
    """Build the dashboard as Grafana's JSON."""
    words = context.words
    made = Board(context, "ingest")
    made.query_variable("source", "SELECT name FROM sources WHERE name <> '?' ORDER BY 1")
    made.add(_sums(context), 24, 4)
    made.add(_outcomes(context), 12, 9)
    made.add(_by_source(context), 12, 9)
    made.add(_delay(context), 12, 9)
    made.add(_sources(context), 12, 9)
    made.row(words("row.processes"))
    if context.prometheus is None:
        made.add(panels.note(words("ingest.no_prometheus"), words("ingest.no_prometheus.text")), 24, 5)
    else:
        for title, expression, legend, unit in (
            ("ingest.workers", "citybeat_ingest_worker_up", "{{worker}}", "none"),
            ("ingest.spool", "citybeat_ingest_spooled_bytes", "{{worker}}", "bytes"),
            ("ingest.spool_age", "citybeat_ingest_spooled_oldest_seconds", "{{worker}}", "s"),
            (
                "ingest.commit",
                "histogram_quantile(0.95, sum by (le) (rate(citybeat_ingest_lag_seconds_bucket[$__rate_interval])))",
                "95 %",
                "s",
            ),
        ):
            panel = panels.chart(
                words(title),
                Prom(expression, legend=legend, uid=context.prometheus),
                numbers=NumberFormat(unit=unit, low=0.0),
                none=words("none.prometheus"),
            )
            made.add(panel, 12, 8)
    return made.build()


_SOURCES: Final = "ARRAY[${source:sqlstring}]::text[]"
_PICKED: Final = f"(chosen({_SOURCES}) IS NULL OR s.name = ANY(chosen({_SOURCES})))"


def _sums(context: Context) -> Any:
    words = context.words
    query = (
        f"SELECT sum(t.received) AS received, sum(t.received - ({_SUM})) AS difference,\n"
        "    sum(t.stored)::float8 / nullif(sum(t.received), 0) AS stored,\n"
        "    (SELECT extract(epoch FROM now() - max(minute))::float8 FROM ledger) AS age,\n"
        "    (SELECT count(*) FROM (SELECT FROM marks_15m LIMIT 10000) m) AS behind,\n"
        "    (SELECT count(*) FROM (SELECT FROM quarantine WHERE resolved_at IS NULL LIMIT 100000) q) AS waiting\n"
        f"FROM ledger_totals t JOIN sources s ON s.id = t.source_id WHERE {_PICKED}"
    )
    shown: Overrides = {
        "received": named(words("column.received"), decimals=0),
        "difference": [
            *named(words("ingest.difference"), decimals=0),
            (
                "thresholds",
                {
                    "mode": "absolute",
                    "steps": [{"value": None, "color": RED}, {"value": 0, "color": GREEN}, {"value": 1, "color": RED}],
                },
            ),
            ("color", {"mode": "thresholds"}),
        ],
        "stored": named(words("ingest.stored"), unit="percentunit", decimals=2),
        "age": named(words("ingest.age"), unit="s", decimals=0),
        "behind": named(words("ingest.behind"), decimals=0),
        "waiting": named(words("quality.waiting"), decimals=0),
    }
    panel = panels.figures(
        words("ingest.sums"), Sql(query, form="table"), none=words("none.ledger"), about=words("ingest.sums.about")
    )
    return panels.fields(panel, shown)


def _outcomes(context: Context) -> Any:
    words = context.words
    parts = ", ".join(f"sum(l.{name})::float8 / max({_MINUTES}) AS {name}" for name in ("received", *OUTCOMES))
    query = (
        f"SELECT time_bucket({_STEP}, l.minute) AS time, {parts}\n"
        f"FROM ledger l JOIN sources s ON s.id = l.source_id WHERE {_RANGE} AND {_PICKED} GROUP BY 1 ORDER BY 1"
    )
    panel = panels.chart(
        words("ingest.outcomes"),
        Sql(query),
        numbers=NumberFormat(decimals=1, low=0.0),
        none=words("none.ledger"),
        about=words("ingest.outcomes.about"),
    )
    return panels.fields(panel, {name: named(words(f"outcome.{name}")) for name in ("received", *OUTCOMES)})


def _by_source(context: Context) -> Any:
    words = context.words
    query = (
        f'SELECT time_bucket({_STEP}, l.minute) AS time, s.name, sum(l.messages)::float8 / max({_MINUTES}) AS "Value"\n'
        f"FROM ledger l JOIN sources s ON s.id = l.source_id WHERE {_RANGE} AND {_PICKED} GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return panels.chart(
        words("ingest.messages"),
        Sql(query),
        numbers=NumberFormat(decimals=1, low=0.0),
        none=words("none.ledger"),
        name="${__field.labels.name}",
        stacked=True,
    )


def _delay(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT source, count(*) AS sensors, percentile_cont(0.5) WITHIN GROUP (ORDER BY d) AS median,\n"
        "    percentile_cont(0.95) WITHIN GROUP (ORDER BY d) AS slow, max(d) AS slowest\n"
        "FROM (SELECT source, extract(epoch FROM received_at - last_at)::float8 AS d\n"
        "    FROM sensor_board WHERE last_at IS NOT NULL) b\n"
        f"WHERE chosen({_SOURCES}) IS NULL OR source = ANY(chosen({_SOURCES}))\n"
        "GROUP BY source ORDER BY slow DESC, source"
    )
    columns: Overrides = {
        "source": named(words("column.source")),
        "sensors": named(words("column.sensors")),
        "median": named(words("ingest.median"), unit="s", decimals=1),
        "slow": named(words("ingest.slow"), unit="s", decimals=1, color=ORANGE),
        "slowest": named(words("ingest.slowest"), unit="s", decimals=1),
    }
    return panels.rows(
        words("ingest.delay"), Sql(query, form="table"), columns, none=words("none.sensors"), about=words("ingest.delay.about")
    )


def _sources(context: Context) -> Any:
    words = context.words
    query = (
        "SELECT s.name AS source, e.status, t.messages, t.redelivered, t.undecodable, q.last_at,\n"
        "    coalesce(q.missing, 0) AS missing, t.overflow\n"
        "FROM ledger_totals t JOIN sources s ON s.id = t.source_id LEFT JOIN source_state e ON e.source_id = t.source_id\n"
        # For the newest run of each source: message numbers between the first and the last that were not seen.
        "LEFT JOIN LATERAL (\n"
        "    SELECT r.last_at,\n"
        "        upper(r.seen) - lower(r.seen) - (SELECT sum(upper(p) - lower(p)) FROM unnest(r.seen) AS p) AS missing\n"
        "    FROM seqs r WHERE r.source_id = t.source_id AND NOT isempty(r.seen) ORDER BY r.last_at DESC LIMIT 1\n"
        ") q ON true\n"
        f"WHERE {_PICKED} ORDER BY missing DESC, source"
    )
    status = [
        {"type": "value", "options": {name: {"text": words(f"status.{name}"), "color": color, "index": i}}}
        for i, (name, color) in enumerate((("online", GREEN), ("offline", RED)))
    ]
    columns: Overrides = {
        "source": named(words("column.source")),
        "status": [*named(words("column.status")), ("mappings", status), ("custom.cellOptions", {"type": "color-text"})],
        "messages": named(words("column.messages")),
        "redelivered": named(words("column.redelivered")),
        "undecodable": named(words("column.undecodable")),
        "last_at": named(words("column.last"), unit="dateTimeFromNow"),
        "missing": named(words("column.never"), color=RED),
        "overflow": named(words("column.overflow")),
    }
    return panels.rows(
        words("ingest.sources"), Sql(query, form="table"), columns, none=words("none.ledger"), about=words("ingest.sources.about")
    )
