"""The catalogue of metrics. It is answered from memory; the database is needed only for the key."""

from functools import cache
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response
from pydantic import Field

from citybeat.api.http.answers import answer, finite
from citybeat.api.http.auth import Reader
from citybeat.api.http.models import CatalogueModel
from citybeat.api.http.openapi import answers
from citybeat.api.http.params import Parameters
from citybeat.api.routes.service import ServiceDep
from citybeat.api.series import aggregates
from citybeat.devices.catalogue import Domain, Metric
from citybeat.devices.units import SPELLINGS, UnitError, conversion
from citybeat.devices.wire.senml_units import UCUM, name_of

router: Final = APIRouter(prefix="/v1", tags=["registry"])


class CatalogueParameters(Parameters):
    """Filters of metrics."""

    domain: Domain | None = Field(None, description="Only metrics of this domain.")


_EXAMPLE: Final = {
    "metrics": [
        {
            "name": "temperature",
            "label": "Temperature",
            "label_vi": "Nhiệt độ",
            "domain": "environment",
            "unit": "Cel",
            "kind": "gauge",
            "aggregates": ["count", "mean", "min", "max", "first", "last", "stddev"],
            "low": -80.0,
            "high": 60.0,
            "suspect_low": None,
            "suspect_high": None,
            "interval_s": 60.0,
            "unece": "CEL",
            "step_floor": 0.5,
            "step_per_minute": 3.0,
            "stuck_after_s": 43200.0,
            "may_repeat": [],
            "sentinels": [],
            "source": "Z",
            "senml_unit": "Cel",
            "accepted_units": ["Cel", "K", "[degF]", "[degR]"],
        }
    ]
}
#: Units that sensors send, in UCUM: those that people write, those of SenML, and common prefixes of both. Units that only happen to
#: share a dimension with another are left out (a percentage is not a number of bytes).
_COMMON: Final = sorted(
    {*SPELLINGS.values(), *UCUM.values(), "K", "[degR]", "mW", "MW", "kV", "mg/m3", "g/m3", "Pa", "kPa", "bar"}
    - {"mol", "By", "KiBy", "GBy", "By/s", "MBy/s", "bit", "bit/s", "Mbit/s", "kat", "Bq", "MHz", "[NTU]"}
)


@router.get(
    "/catalogue",
    response_model=CatalogueModel,
    responses=answers(_EXAMPLE, 422),
)
async def catalogue(service: ServiceDep, _caller: Reader, parameters: Annotated[CatalogueParameters, Query()]) -> Response:
    """The metrics that sensors can have: unit, kind, plausible range, and the aggregates that make sense."""
    wanted = [metric for metric in service.catalogue.values() if parameters.domain in {None, metric.domain}]
    return answer({"metrics": [_metric(metric) for metric in wanted]})


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "label": metric.label or metric.name,
        "label_vi": metric.label_vi or metric.label or metric.name,
        "domain": metric.domain,
        "unit": metric.unit,
        "kind": metric.kind,
        "aggregates": aggregates.allowed(metric.kind),
        **{name: finite(getattr(metric, name)) for name in ("low", "high", "suspect_low", "suspect_high")},
        "interval_s": metric.interval,
        "unece": metric.unece or None,
        "step_floor": finite(metric.step_floor),
        "step_per_minute": metric.step_per_minute,
        "stuck_after_s": finite(metric.stuck_after),
        "may_repeat": list(metric.may_repeat),
        "sentinels": list(metric.sentinels),
        "source": metric.source,
        "senml_unit": name_of(metric.unit),
        "accepted_units": _accepted(metric.unit),
    }


@cache
def _accepted(unit: str) -> list[str]:
    """A unit, and the common units that can be converted to it."""
    return [unit, *(other for other in _COMMON if other != unit and _converts(other, unit))]


def _converts(sent: str, wanted: str) -> bool:
    try:
        conversion(sent, wanted)
    except UnitError:
        return False
    return True
