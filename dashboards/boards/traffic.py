"""Traffic: volume, speed and occupancy by district, and each metric of the domain by device."""

from typing import Any

from citybeat.dashboards import panels, sql
from citybeat.dashboards.board import Board, Context
from citybeat.dashboards.panels import Sql
from citybeat.devices.catalogue import Domain


def board(context: Context) -> dict[str, Any]:
    """Build the dashboard as Grafana's JSON."""
    words = context.words
    made = Board(context, "traffic")
    made.usual_variables(Domain.TRAFFIC)
    made.row(words("row.districts"))
    for name in ("intensity", "averageVehicleSpeed", "occupancy"):
        if name in context.catalogue:
            metric = context.catalogue[name]
            panel = panels.chart(
                words("by_district", metric=words.metric(metric)),
                Sql(sql.by_district(name)),
                numbers=context.format(metric),
                none=words("none.chart"),
                about=words("by_district.about"),
                name="${__field.labels.district}",
                link=context.to_board("traffic", "var-district=${__field.labels.district}&"),
            )
            made.add(panel, 8, 8)
    made.row(words("row.devices"))
    made.metrics(context.of(Domain.TRAFFIC))
    return made.build()
