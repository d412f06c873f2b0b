"""Models of all answers, for the OpenAPI document. Routes answer from arrays; tests validate their answers against these models.

All columns of an answer have the same length; `pandas.DataFrame(answer["columns"])` is a table.
"""

from citybeat.api.http.models.accounts import (
    HealthModel,
    LedgerModel,
    LivenessModel,
    PostedModel,
    QuarantinedDetailModel,
    QuarantineModel,
    ReplayedModel,
)
from citybeat.api.http.models.registry import (
    CatalogueModel,
    DeviceDetailModel,
    DeviceFeaturesModel,
    DevicesModel,
    HistoryModel,
    ImportedModel,
    SourceModel,
    SourcesModel,
)
from citybeat.api.http.models.telemetry import (
    LatestFeaturesModel,
    LatestModel,
    NearestModel,
    QueryModel,
    ReadingsModel,
    SeriesModel,
    StatesFeaturesModel,
    StatesModel,
)

__all__ = [
    "CatalogueModel",
    "DeviceDetailModel",
    "DeviceFeaturesModel",
    "DevicesModel",
    "HealthModel",
    "HistoryModel",
    "ImportedModel",
    "LatestFeaturesModel",
    "LatestModel",
    "LedgerModel",
    "LivenessModel",
    "NearestModel",
    "PostedModel",
    "QuarantineModel",
    "QuarantinedDetailModel",
    "QueryModel",
    "ReadingsModel",
    "ReplayedModel",
    "SeriesModel",
    "SourceModel",
    "SourcesModel",
    "StatesFeaturesModel",
    "StatesModel",
]
