"""What a dashboard is made with: context, variables, links, and a grid that panels flow into. Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from citybeat.dashboards import panels, sql
from citybeat.dashboards.panels import DATASOURCE, Link, Look, Property, Sql
from citybeat.dashboards.units import unit_of
from citybeat.devices.catalogue import Catalogue, Domain, Kind, Metric

#: Columns of Grafana's grid.
WIDTH: Final = 24
TAG: Final = "citybeat"


class Words(Protocol):
    """Texts in one language (`dashboards/texts.py`)."""

    def __call__(self, key: str, **values: Any) -> str:
        """The text of a key, with its blanks filled."""

    def metric(self, metric: Metric) -> str:
        """A metric's name for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What dashboards are made from."""

    catalogue: Catalogue
    words: Words
    zone: str = "Asia/Ho_Chi_Minh"  # the city's
    standard: str = "QCVN 05:2023"  # whose limits are shown first, and watched
    contact: str | None = None  # address or URL that alerts go to; None: to whom Grafana's own policy says
    prometheus: str | None = None  # uid of a Prometheus data source; None: the city has none

    def of(self, domain: Domain) -> list[Metric]:
        """The domain's metrics, in the catalogue's order."""
        return [metric for metric in self.catalogue.values() if metric.domain is domain]

    def look(self, metric: Metric) -> Look:
        """How the metric's numbers look."""
        bounded = metric.unit == "1" and (metric.low, metric.high) == (0.0, 1.0)
        return Look(
            unit=unit_of(metric, self.words("per_hour")),
            decimals=int(metric.decimals),
            color=metric.color,
            low=0.0 if metric.low == 0 else None,
            high=1.0 if bounded else None,
        )

    def field(self, metric: Metric) -> list[Property]:
        """Properties of a field that holds the metric's numbers."""
        look = self.look(metric)
        return panels.named(self.words.metric(metric), unit=look.unit, decimals=look.decimals, color=look.color)

    def states(self) -> Property:
        """Severities as words and colours."""
        return panels.states({name: self.words(f"state.{name}") for name, _ in panels.STATES})

    def to_sensor(self, device: str, metric: str) -> Link:
        """To the dashboard of one sensor."""
        return Link(
            title=self.words("link.sensor"),
            url=f"/d/{uid('sensor')}?var-device={device}&var-metric={metric}&${{__url_time_range}}",
        )

    def to_board(self, name: str, variables: str = "") -> Link:
        """To another dashboard."""
        return Link(title=self.words(f"{name}.title"), url=f"/d/{uid(name)}?{variables}${{__url_time_range}}")


def uid(name: str) -> str:
    """Stable and readable, the same in every language."""
    return f"citybeat-{name}"


class Board:
    """One dashboard. Panels are added from left to right, and begin a new line when there is no room."""

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
        """A list from the database; `at`: what is picked at first, else everything or the first."""
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
        """A list of texts by value; the first is picked at first."""
        listed = [dashboard.VariableOption(selected=not i, text=options[v], value=v) for i, v in enumerate(options)]
        self._made.with_variable(
            builders.CustomVariable(name)
            .label(self.words(f"variable.{name}"))
            .values(", ".join(f"{text} : {value}" for value, text in options.items()))
            .options(listed)
            .current(listed[0])
        )

    def usual_variables(self, domain: Domain | None, *, devices: bool = True, aggregate: bool = True) -> None:
        """District, device, aggregate and zone."""
        self.query_variable("district", sql.DISTRICT_LIST)
        if devices:
            self.query_variable("device", sql.device_list(None if domain is None else domain.value))
        if aggregate:
            self.fixed_variable("aggregate", {name: self.words(f"aggregate.{name}") for name in AGGREGATES})
        self.zone_variable()

    def zone_variable(self) -> None:
        """By whose clocks days begin."""
        self.fixed_variable("zone", {zone: zone for zone in dict.fromkeys([self.context.zone, "UTC"])})

    # --- panels ---

    def row(self, title: str) -> None:
        """A heading over what follows."""
        self._break()
        place = dashboard.GridPos(x=0, y=self._y, w=WIDTH, h=1)
        self._panels.append(dashboard.RowPanel(title=title, grid_pos=place, id_val=self._number(), collapsed=False, panels=[]))
        self._y += 1

    def add(self, panel: dashboard.Panel, width: int, height: int) -> None:
        """The next panel."""
        if self._x + width > WIDTH:
            self._break()
        panel.id_val = self._number()
        panel.grid_pos = dashboard.GridPos(x=self._x, y=self._y, w=width, h=height)
        self._panels.append(panel)
        self._x += width
        self._height = max(self._height, height)

    def metrics(self, chosen: Sequence[Metric], extra: Callable[[Metric], str | None] = lambda _: None) -> None:
        """A chart a metric, two a line, a line a device; `extra`: a second query, drawn as limits."""
        for metric in chosen:
            more = extra(metric)
            made = panels.chart(
                self.words.metric(metric),
                Sql(sql.lines(metric.name)),
                *([] if more is None else [Sql(more, ref="B")]),
                look=self.context.look(metric),
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
        """Grafana's JSON."""
        made = self._made.build()
        made.panels = self._panels
        found: dict[str, Any] = json.loads(json.dumps(made, cls=JSONEncoder))
        return found

    def _break(self) -> None:
        self._y += self._height
        self._x = self._height = 0

    def _number(self) -> int:
        return len(self._panels) + 1


#: What a chart can show of a bucket.
AGGREGATES: Final = ("usual", "mean", "min", "max", "last", "stddev")

#: How limits are drawn: dashed, thin, never joined with a device's line, under their own names.
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

#: Name, colour and query. Outages are minutes in which nothing came from any source; a year of them is no annotation any more.
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
