"""`/metrics`: metrics of the database and of this API's requests, in the formats of Prometheus.

Metrics of the database are declared here alone; `api/http/requests.py` has those of requests, `ingest/transport/metrics.py` those
of ingest. The database is read at each scrape, so no value is stale; without the database the scrape still succeeds, with
`citybeat_database_up 0`.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from citybeat.api.http.auth import Reader
from citybeat.api.http.problems import forbidden
from citybeat.api.routes.service import ServiceDep
from citybeat.devices.ledger import COUNTERS, OUTCOMES, Sort
from citybeat.storage.accounts.figures import Figures, figures
from citybeat.storage.db.connection import StorageError

router: Final = APIRouter(include_in_schema=False)  # for Prometheus, not for clients: docs/operations.md
_log: Final = logging.getLogger(__name__)


class _Once(Collector):
    """The metrics of one scrape, as a registry that an encoder takes."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families: Final = families

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        return self._families


@router.get("/metrics")
async def metrics(request: Request, service: ServiceDep, caller: Reader) -> Response:
    """All metrics, or those of requests alone if the database does not answer."""
    if caller.within is not None:
        raise forbidden("metrics are of the whole city; a key that is restricted to a part may not read them")
    requests = service.requests
    found: Figures | None = None
    began = time.perf_counter()
    async with requests.turn:
        try:
            found = await figures(service.pool)
        except StorageError as exc:
            _log.warning("/metrics lacks the metrics of the database: %s", exc)
    encode, media_type = exposition.choose_encoder(request.headers.get("accept", ""))
    registry = CollectorRegistry()
    registry.register(_Once([*families(found, time.perf_counter() - began), *requests.registry.collect()]))
    return Response(encode(registry), media_type=media_type, headers={"Cache-Control": "no-store"})


def families(found: Figures | None, seconds: float) -> Iterable[Metric]:
    """Figures of the database as metrics; None: it is unavailable."""
    yield GaugeMetricFamily("citybeat_database_up", "1: the database gave its figures.", value=float(found is not None))
    yield GaugeMetricFamily("citybeat_database_figures_seconds", "How long the database took for that.", value=seconds)
    if found is None:
        return
    for each in COUNTERS:
        if each.sort is Sort.OUTCOME:
            continue
        counter = CounterMetricFamily(f"citybeat_ledger_{each.metric}", each.meaning, labels=["source"])
        for source, counts in found.ledger.items():
            counter.add_metric([source], getattr(counts, each.name))
        yield counter
    # Not a counter: a retry of quarantined readings moves them from one outcome to another.
    ends = GaugeMetricFamily(
        "citybeat_ledger_readings", "What became of the readings received, over all time.", labels=["source", "outcome"]
    )
    for source, counts in found.ledger.items():
        for outcome in OUTCOMES:
            ends.add_metric([source, outcome], getattr(counts, outcome))
    yield ends
    yield _by("citybeat_quarantine_open_messages", "Messages with something open in quarantine.", "reason", found.quarantine)
    yield _by("citybeat_lost_before_broker_messages", "Message numbers that never came.", "source", found.lost)
    yield GaugeMetricFamily("citybeat_rollup_marks", "Marks of quarter-hours that are to be recomputed.", value=found.marks)
    yield _by("citybeat_sensors", "Sensors in service.", "domain", found.sensors)
    yield _by("citybeat_sensors_overdue", "Sensors in service that should have reported by now.", "domain", found.overdue)


def _by(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
