"""Functions that build panels, with queries, units, links and overrides. Pure.

Invariant: texts come in translated and SQL comes in complete; this module knows only Grafana's format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import geomap, stat, statetimeline, table, text, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.text import TextMode

from citybeat.devices.states import STATES as NAMES

DATASOURCE: Final = common.DataSourceRef(type_val="grafana-postgresql-datasource", uid="citybeat")
GREEN, YELLOW, ORANGE, RED, PURPLE, GREY = "#56A64B", "#F2CC0C", "#FF9830", "#E02F44", "#8F3BB8", "#8E8E8E"

#: States of a sensor in order of severity, each with its color.
STATES: Final = tuple(zip(NAMES, (GREEN, ORANGE, PURPLE, RED, GREY), strict=True))


class Sql(Dataquery, Builder[Dataquery]):
    """A query to the database; the foundation SDK has no class for PostgreSQL."""

    def __init__(self, sql: str, *, form: str = "time_series", ref: str = "A") -> None:
        self.sql, self.form, self.ref = sql, form, ref

    def build(self) -> Dataquery:
        return self

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref,
            "datasource": DATASOURCE.to_json(),
            "format": self.form,
            "editorMode": "code",
            "rawQuery": True,
            "rawSql": self.sql,
        }


class Prom(Dataquery, Builder[Dataquery]):
    """A query to Prometheus, for cities that run one."""

    def __init__(self, expression: str, *, legend: str, uid: str, ref: str = "A") -> None:
        self.expression, self.legend, self.uid, self.ref = expression, legend, uid, ref

    def build(self) -> Dataquery:
        return self

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref,
            "datasource": {"type": "prometheus", "uid": self.uid},
            "expr": self.expression,
            "legendFormat": self.legend,
            "range": True,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberFormat:
    """Format of numbers, their colour, and the range of their axis."""

    unit: str = "short"
    decimals: int | None = None
    color: str | None = None
    low: float | None = None  # of the axis
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """Target of a click."""

    title: str
    url: str


Property = tuple[str, Any]
#: Properties by field name.
Overrides = Mapping[str, Sequence[Property]]


def named(title: str, **more: Any) -> list[Property]:
    """Properties of a field: its heading, and others (`unit`, `decimals`, `color`) that are not None."""
    found: list[Property] = [("displayName", title)]
    for name, value in more.items():
        if value is not None:
            found.append((name, {"mode": "fixed", "fixedColor": value} if name == "color" else value))
    return found


def linked(link: Link) -> Property:
    """The property that makes a field a link."""
    return "links", [{"title": link.title, "url": link.url}]


def states(words: Mapping[str, str]) -> Property:
    """The property that shows severities as words and colours."""
    options = {str(i): {"text": words[name], "color": color, "index": i} for i, (name, color) in enumerate(STATES)}
    return "mappings", [{"type": "value", "options": options}]


def steps(first: str, *above: tuple[float, str]) -> dashboard.ThresholdsConfig:
    """Thresholds: the first colour, and other colours from given values upwards."""
    found = [dashboard.Threshold(value=None, color=first), *(dashboard.Threshold(value=v, color=c) for v, c in above)]
    return dashboard.ThresholdsConfig(mode=dashboard.ThresholdsMode.ABSOLUTE, steps=found)


def fields(panel: dashboard.Panel, overrides: Overrides) -> dashboard.Panel:
    """Add overrides by field name."""
    return _override(panel, [("byName", name, properties) for name, properties in overrides.items()])


def patterns(panel: dashboard.Panel, overrides: Overrides) -> dashboard.Panel:
    """Add overrides by a pattern of field names."""
    return _override(panel, [("byRegexp", name, properties) for name, properties in overrides.items()])


def of_query(panel: dashboard.Panel, ref: str, properties: Sequence[Property]) -> dashboard.Panel:
    """Add overrides for all fields of one query."""
    return _override(panel, [("byFrameRefID", ref, properties)])


def chart(
    title: str,
    *queries: Sql | Prom,
    numbers: NumberFormat,
    none: str,
    about: str = "",
    link: Link | None = None,
    name: str | None = None,
    bars: bool = False,
    stacked: bool = False,
    thresholds: dashboard.ThresholdsConfig | None = None,
) -> dashboard.Panel:
    """A chart of curves or bars over time. `name`: label of a series; `none`: text shown without data."""
    made = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .unit(numbers.unit)
        .no_value(none)
        .draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(70 if bars else 0)
        .show_points(common.VisibilityMode.NEVER if bars else common.VisibilityMode.AUTO)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    )
    for query in queries:
        made.with_target(query)
    if isinstance(queries[0], Sql):
        made.datasource(DATASOURCE)
    else:
        made.datasource(common.DataSourceRef(type_val="prometheus", uid=queries[0].uid))
    if stacked:
        made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if numbers.decimals is not None:
        made.decimals(numbers.decimals)
    if numbers.low is not None:
        made.axis_soft_min(numbers.low)
    if numbers.high is not None:
        made.axis_soft_max(numbers.high)
    if thresholds is not None:
        made.thresholds(_Built(thresholds)).thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.AREA)
        )
    if numbers.color is not None:
        made.color_scheme(_Built(dashboard.FieldColor(mode=dashboard.FieldColorModeId.SHADES, fixed_color=numbers.color)))
    if name is not None:
        made.display_name(name)
    if link is not None:
        made.data_links([_Built(_link(link))])
    return made.build()


def figures(
    title: str,
    query: Sql | Prom,
    *,
    none: str,
    numbers: NumberFormat | None = None,
    about: str = "",
    thresholds: dashboard.ThresholdsConfig | None = None,
    spark: bool = False,
) -> dashboard.Panel:
    """A panel of large numbers, one for each column of the query."""
    shown = numbers or NumberFormat()
    made = (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(DATASOURCE)
        .with_target(query)
        .unit(shown.unit)
        .no_value(none)
        .graph_mode(common.BigValueGraphMode.AREA if spark else common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .text_mode(common.BigValueTextMode.AUTO)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).fields("/.*/").values(False))
    )
    if shown.decimals is not None:
        made.decimals(shown.decimals)
    if thresholds is not None:
        made.thresholds(_Built(thresholds))
    elif shown.color is not None:
        made.color_scheme(_Built(dashboard.FieldColor(mode=dashboard.FieldColorModeId.FIXED, fixed_color=shown.color)))
    return made.build()


def rows(title: str, query: Sql, columns: Overrides, *, none: str, about: str = "") -> dashboard.Panel:
    """A table; `columns` has the heading of every column."""
    made = (
        table.Panel()
        .title(title)
        .description(about)
        .datasource(DATASOURCE)
        .with_target(query)
        .no_value(none)
        .show_header(True)
        .cell_height(common.TableCellHeight.SM)
        .filterable(True)
    )
    return fields(made.build(), columns)


def timeline(
    title: str, query: Sql, *, none: str, mappings: Sequence[dict[str, Any]], about: str = "", name: str
) -> dashboard.Panel:
    """A panel of coloured bands over time, one for each series."""
    made = (
        statetimeline.Panel()
        .title(title)
        .description(about)
        .datasource(DATASOURCE)
        .with_target(query)
        .no_value(none)
        .display_name(name)
        .merge_values(True)
        .show_value(common.VisibilityMode.NEVER)
        .row_height(0.85)
        .fill_opacity(85)
        .mappings([_Raw(mapping) for mapping in mappings])  # type: ignore[misc]  # as Grafana's JSON has them
    )
    return made.build()


def map_of(title: str, query: Sql, columns: Overrides, *, none: str, layer: str, color_by: str, about: str = "") -> dashboard.Panel:
    """A map with points, coloured by a field with thresholds."""
    config = {
        "style": {
            "color": {"field": color_by, "fixed": GREY},
            "opacity": 0.8,
            "size": {"fixed": 6, "min": 4, "max": 10},
            "symbol": {"fixed": "img/icons/marker/circle.svg", "mode": "fixed"},
        },
        "showLegend": True,
    }
    place = common_builders.FrameGeometrySource().mode(common.FrameGeometrySourceMode.COORDS)
    markers = (
        common_builders.MapLayerOptions()
        .type("markers")
        .name(layer)
        .config(config)
        .location(place.latitude("latitude").longitude("longitude"))
        .tooltip(True)
    )
    made = (
        geomap.Panel()
        .title(title)
        .description(about)
        .datasource(DATASOURCE)
        .with_target(query)
        .no_value(none)
        .view(geomap.MapViewConfig().id("fit").all_layers(True).zoom(14))
        .basemap(common_builders.MapLayerOptions().type("default").name("basemap"))
        .layers([markers])
        .thresholds(_Built(steps(STATES[0][1], *((float(i), color) for i, (_, color) in enumerate(STATES) if i))))
    )
    return fields(made.build(), columns)


def note(title: str, content: str) -> dashboard.Panel:
    """A panel with a text in Markdown."""
    return text.Panel().title(title).mode(TextMode.MARKDOWN).content(content).build()


_T = TypeVar("_T")


class _Built(Builder[_T]):
    """A finished object, for builders that expect a builder."""

    def __init__(self, thing: _T) -> None:
        self._thing = thing

    def build(self) -> _T:
        return self._thing


class _Raw:
    """An object that encodes to the given JSON."""

    def __init__(self, json: dict[str, Any]) -> None:
        self._json = json

    def to_json(self) -> dict[str, Any]:
        return self._json


def _link(link: Link) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title=link.title, type_val=dashboard.DashboardLinkType.LINK, url=link.url)


def _override(panel: dashboard.Panel, found: Sequence[tuple[str, str, Sequence[Property]]]) -> dashboard.Panel:
    if panel.field_config is None:
        panel.field_config = dashboard.FieldConfigSource()
    config = panel.field_config
    for matcher, name, properties in found:
        config.overrides.append(
            dashboard.DashboardFieldConfigSourceOverrides(
                matcher=dashboard.MatcherConfig(id_val=matcher, options=name),
                properties=[dashboard.DynamicConfigValue(id_val=key, value=value) for key, value in properties],
            )
        )
    return panel
