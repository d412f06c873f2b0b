"""Prometheus metrics of ingest: counters and histograms are declared here, gauges beside their values (`IngestService.standing`).

Invariant: called once for each batch or scrape, never for each reading; nothing depends on these figures. The ledger in the
database is the account of readings; these figures are for monitoring, and start at 0 with the process of the service. Figures of
a worker come with its answers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, exposition
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from citybeat.devices.errors import Reason
from citybeat.devices.ledger import COUNTERS, OUTCOMES, Sort
from citybeat.ingest.transport.ipc import Committed

#: s. From what a local commit takes to what an operator notices without a graph.
_FAST: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
#: s. From a sensor beside us to a gateway that was cut off for days.
_SLOW: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0)

# No series with the time at which each counter began: it would double their number, and rate() does not need it.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library types all but this

#: A metric whose values are read at each scrape: name, help, kind, and (labels, value) of each series.
Gauges = tuple[str, str, str, Sequence[tuple[dict[str, str], float]]]


class Metrics:
    """Metrics of one service and its workers.

    Parameters
    ----------
    workers : int
        Number of workers: every series exists from the beginning, at 0.
    gauges : callable
        Returns the gauges (`IngestService.standing`); called at each scrape.
    """

    def __init__(self, workers: int, gauges: Callable[[], Sequence[Gauges]]) -> None:
        self._registry: Final = CollectorRegistry()
        own = self._registry
        by_worker = ["worker"]
        self._columns: Final = {
            each.name: Counter(f"citybeat_ingest_{each.metric}", each.meaning, by_worker, registry=own)
            for each in COUNTERS
            if each.sort is not Sort.OUTCOME
        }
        self._outcomes: Final = Counter(
            "citybeat_ingest_readings", "Readings received, by outcome.", ["worker", "outcome"], registry=own
        )
        self._reasons: Final = Counter(
            "citybeat_ingest_quarantined",
            "Readings, or whole messages, that went to quarantine, by reason.",
            ["worker", "reason"],
            registry=own,
        )
        self._batches: Final = Counter("citybeat_ingest_batches", "Transactions that were committed.", by_worker, registry=own)
        self._lag: Final = Histogram(
            "citybeat_ingest_lag_seconds",
            "From receipt to commit, of each batch's oldest message.",
            by_worker,
            buckets=_FAST,
            registry=own,
        )
        self._commit: Final = Histogram(
            "citybeat_ingest_commit_seconds",
            "Duration of a batch, from its arrival at the worker to its commit.",
            by_worker,
            buckets=_FAST,
            registry=own,
        )
        self._delay: Final = Histogram(
            "citybeat_ingest_publish_to_commit_seconds",
            "From a reading's own time to its commit, of a sample without late ones.",
            by_worker,
            buckets=_SLOW,
            registry=own,
        )
        for worker in map(str, range(workers)):
            for metric in (*self._columns.values(), self._batches, self._lag, self._commit, self._delay):
                metric.labels(worker)
            for outcome in OUTCOMES:
                self._outcomes.labels(worker, outcome)
            for reason in Reason:
                self._reasons.labels(worker, reason.value)
        self._registry.register(_Standings(gauges))

    def committed(self, worker: int, answer: Committed, *, lag: float) -> None:
        """Count a batch that a worker has committed; `lag` is s from receipt to commit of its oldest message."""
        label = str(worker)
        self._batches.labels(label).inc()
        for column, count in answer.counts.items():
            if column in OUTCOMES:
                self._outcomes.labels(label, column).inc(count)
            else:
                self._columns[column].labels(label).inc(count)
        for reason, count in answer.reasons.items():
            self._reasons.labels(label, reason).inc(count)
        self._lag.labels(label).observe(max(lag, 0.0))
        self._commit.labels(label).observe(answer.took)
        for seconds in answer.delays:
            self._delay.labels(label).observe(max(seconds, 0.0))  # negative: the sender's clock is ahead

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """All metrics in a format of Prometheus.

        Parameters
        ----------
        accept : str
            The request's header `Accept`.

        Returns
        -------
        tuple
            Media type and text.
        """
        encode, media_type = exposition.choose_encoder(accept)
        return media_type, encode(self._registry)


class _Standings(Collector):
    def __init__(self, gauges: Callable[[], Sequence[Gauges]]) -> None:
        self._standing: Final = gauges

    def collect(self) -> Iterator[Metric]:
        for name, text, kind, series in self._standing():
            family = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}[kind](name, text, labels=sorted(series[0][0]))
            for labels, value in series:
                family.add_metric([labels[key] for key in sorted(labels)], value)
            yield family


def gauges(name: str, text: str, each: Sequence[tuple[dict[str, str], float]], *, kind: str = "gauge") -> Gauges:
    """Declare a metric whose values are read at each scrape."""
    return f"citybeat_{name}", text, kind, each
