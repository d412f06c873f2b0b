"""Parts of a dashboard: context, variables, links, and a grid that panels are placed on. Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from citybeat.dashboards import panels, sql
from citybeat.dashboards.panels import DATASOURCE, Link, NumberFormat, Property, Sql
from citybeat.dashboards.units import unit_of
from citybeat.devices.catalogue import Catalogue, Domain, Kind, Metric

#: Columns of Grafana's grid.
WIDTH: Final = 24
TAG: Final = "citybeat"
#: Defaults: the time zone and the air quality standard of Vietnam.
ZONE: Final = "Asia/Ho_Chi_Minh"
STANDARD: Final = "QCVN 05:2023"


class Words(Protocol):
    """Texts in one language (`dashboards/texts.py`)."""

    def __call__(self, key: str, **values: Any) -> str:
        """The text of a key, with its placeholders filled."""

    def metric(self, metric: Metric) -> str:
        """A metric's name for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Everything that dashboards depend on."""

    catalogue: Catalogue
    words: Words
    zone: str = ZONE  # time zone of the city
    standard: str = STANDARD  # its limits are shown first and watched by the alert
    contact: str | None = None  # e-mail address or URL that alerts go to; None: Grafana's notification policy decides
    prometheus: str | None = None  # uid of a Prometheus data source; None: there is none

    def of(self, domain: Domain) -> list[Metric]:
        """The domain's metrics, in the catalogue's order."""
        return [metric for metric in self.catalogue.values() if metric.domain is domain]

    def format(self, metric: Metric) -> NumberFormat:
        """Number format of a metric."""
        bounded = metric.unit == "1" and (metric.low, metric.high) == (0.0, 1.0)
        return NumberFormat(
            unit=unit_of(metric, self.words("per_hour")),
            decimals=int(metric.decimals),
            color=metric.color,
            low=0.0 if metric.low == 0 else None,
            high=1.0 if bounded else None,
        )

    def field(self, metric: Metric) -> list[Property]:
        """Properties of a field with values of a metric."""
        numbers = self.format(metric)
        return panels.named(self.words.metric(metric), unit=numbers.unit, decimals=numbers.decimals, color=numbers.color)

    def states(self) -> Property:
        """Value mapping of severities to words and colours."""
        return panels.states({name: self.words(f"state.{name}") for name, _ in panels.STATES})

    def to_sensor(self, device: str, metric: str) -> Link:
        """A link to the dashboard of one sensor."""
        return Link(
            title=self.words("link.sensor"),
            url=f"/d/{uid('sensor')}?var-device={device}&var-metric={metric}&${{__url_time_range}}",
        )

    def to_board(self, name: str, variables: str = "") -> Link:
        """A link to another dashboard."""
        return Link(title=self.words(f"{name}.title"), url=f"/d/{uid(name)}?{variables}${{__url_time_range}}")


def uid(name: str) -> str:
    """Uid of a dashboard or rule: stable, readable, and the same in every language."""
    return f"citybeat-{name}"


class Board:
    """One dashboard. Panels are placed from left to right; a panel that does not fit begins a new line."""

    def __init__(self, context: Context, name: str, *, since: str = "now-24h", annotated: bool = True) -> None:
        self.context = context
        self.words = context.words
        self.name = name
        self._panels: list[dashboard.Panel | dashboard.RowPanel] = []
        self._x = self._y = self._height = 0
        words = self.words
        self._made = (
            builders.Dashboard(words(f"{name}.title"))
            .uid(uid(name))
            .description(words(f"{name}.about"))
            .tags([TAG])
            .timezone(context.zone)
            .editable()
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .time(since, "now")
            .refresh("1m")
            .link(
                builders.DashboardLink(words("link.boards"))
                .type(dashboard.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .as_dropdown(True)
                .include_vars(True)
                .keep_time(True)
            )
        )
        if annotated:
            for key, color, query in _ANNOTATIONS:
                text = query.replace("{text}", sql.quoted(words(f"annotation.{key}.text")))
                self._made.annotation(
                    builders.AnnotationQuery()
                    .name(words(f"annotation.{key}"))
                    .datasource(DATASOURCE)
                    .enable(True)
                    .icon_color(color)
                    .target(Sql(text, form="table"))
                )

    # --- variables ---

    def query_variable(self, name: str, query: str, *, several: bool = True, at: str | None = None) -> None:
        """A variable with values from the database; `at`: the initial value, by default all values or the first."""
        made = (
            builders.QueryVariable(name)
            .label(self.words(f"variable.{name}"))
            .datasource(DATASOURCE)
            .query(query)
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(several)
        )
        if several:
            made.include_all(True).all_value(sql.ALL)
            made.current(dashboard.VariableOption(selected=True, text=[self.words("all")], value=["$__all"]))
        elif at is not None:
            made.current(dashboard.VariableOption(selected=True, text=at, value=at))
        self._made.with_variable(made)

    def fixed_variable(self, name: str, options: Mapping[str, str]) -> None:
        """A variable with fixed values, given as value to text; the first is the initial value."""
        listed = [dashboard.VariableOption(selected=not i, text=options[v], value=v) for i, v in enumerate(options)]
        self._made.with_variable(
            builders.CustomVariable(name)
            .label(self.words(f"variable.{name}"))
            .values(", ".join(f"{text} : {value}" for value, text in options.items()))
            .options(listed)
            .current(listed[0])
        )

    def usual_variables(self, domain: Domain | None, *, devices: bool = True, aggregate: bool = True) -> None:
        """Variables for district, device, aggregate and time zone."""
        self.query_variable("district", sql.DISTRICT_LIST)
        if devices:
            self.query_variable("device", sql.device_list(None if domain is None else domain.value))
        if aggregate:
            self.fixed_variable("aggregate", {name: self.words(f"aggregate.{name}") for name in AGGREGATES})
        self.zone_variable()

    def zone_variable(self) -> None:
        """A variable for the time zone in which days begin."""
        self.fixed_variable("zone", {zone: zone for zone in dict.fromkeys([self.context.zone, "UTC"])})

    # --- panels ---

    def row(self, title: str) -> None:
        """Add a heading above the following panels."""
        self._break()
        place = dashboard.GridPos(x=0, y=self._y, w=WIDTH, h=1)
        self._panels.append(dashboard.RowPanel(title=title, grid_pos=place, id_val=self._number(), collapsed=False, panels=[]))
        self._y += 1

    def add(self, panel: dashboard.Panel, width: int, height: int) -> None:
        """Add the next panel."""
        if self._x + width > WIDTH:
            self._break()
        panel.id_val = self._number()
        panel.grid_pos = dashboard.GridPos(x=self._x, y=self._y, w=width, h=height)
        self._panels.append(panel)
        self._x += width
        self._height = max(self._height, height)

    def metrics(self, chosen: Sequence[Metric], extra: Callable[[Metric], str | None] = lambda _: None) -> None:
        """Add a chart for each metric, two on a line, with one curve a device; `extra` gives a second query, drawn as limits."""
        for metric in chosen:
            more = extra(metric)
            made = panels.chart(
                self.words.metric(metric),
                Sql(sql.lines(metric.name)),
                *([] if more is None else [Sql(more, ref="B")]),
                numbers=self.context.format(metric),
                none=self.words("none.chart"),
                about=self.words("about.chart", lines=sql.LINES, metric=metric.name),
                name="${__field.labels.device}",
                link=self.context.to_sensor("${__field.labels.device}", metric.name),
                bars=metric.kind in {Kind.AMOUNT, Kind.COUNTER},
            )
            if more is not None:
                panels.of_query(made, "B", LIMIT)
            self.add(made, 12, 8)

    def build(self) -> dict[str, Any]:
        """The dashboard as Grafana's JSON."""
        made = self._made.build()
        made.panels = self._panels
        found: dict[str, Any] = json.loads(json.dumps(made, cls=JSONEncoder))
        return found

    def _break(self) -> None:
        self._y += self._height
        self._x = self._height = 0

    def _number(self) -> int:
        return len(self._panels) + 1


#: Aggregates of a bucket that a chart can show.
AGGREGATES: Final = ("usual", "mean", "min", "max", "last", "stddev")

#: Style of limits: dashed, thin, never joined with the curve of a device, under their own names.
LIMIT: Final[Sequence[Property]] = (
    ("displayName", "${__field.name}"),
    ("color", {"mode": "fixed", "fixedColor": panels.RED}),
    ("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
    ("custom.lineWidth", 2),
    ("custom.drawStyle", "line"),
    ("custom.fillOpacity", 0),
    ("custom.showPoints", "never"),
    ("links", []),
)

#: Name, colour and query. An outage is a time without a message from any source; only ranges up to 31 days are searched for them.
_ANNOTATIONS: Final = (
    (
        "quarantine",
        panels.ORANGE,
        "SELECT time_bucket(greatest(chart_bucket($__interval_ms, {from}, {to}), INTERVAL '15 minutes'), q.received_at) AS time,\n"
        "    format({text}, count(*), (array_agg(DISTINCT q.reasons[1]))[1]) AS text\n"
        "FROM quarantine q WHERE q.received_at BETWEEN {from} AND {to} GROUP BY 1 ORDER BY 1 LIMIT 200".replace(
            "{from}", sql.FROM
        ).replace("{to}", sql.TO),
    ),
    (
        "outage",
        panels.RED,
        "SELECT m.minute + INTERVAL '1 minute' AS time, m.following AS timeend, {text}::text AS text\n"
        "FROM (\n"
        "    SELECT d.minute, lead(d.minute) OVER (ORDER BY d.minute) AS following\n"
        "    FROM (SELECT DISTINCT l.minute FROM ledger l\n"
        "        WHERE l.minute BETWEEN {from} AND {to} AND {to} - {from} <= INTERVAL '31 days') d\n"
        ") m\n"
        "WHERE m.following - m.minute > INTERVAL '5 minutes' ORDER BY 1 LIMIT 200".replace("{from}", sql.FROM).replace(
            "{to}", sql.TO
        ),
    ),
)
