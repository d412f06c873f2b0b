"""What models of all answers share."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

TIMES: Final = "Epoch milliseconds, UTC; with a fraction only where a reading has microseconds."
FLAGS: Final = (
    "Names of the quality flags of each: range, step, stuck, suspect, late, future, clock, manual_bad, manual_good. None: good."
)


class Model(BaseModel):
    """What all answers share."""

    model_config = ConfigDict(extra="forbid")


class PointModel(Model):
    """Of GeoJSON (RFC 7946)."""

    type: Literal["Point"]
    coordinates: list[float] = Field(description="Degrees east, degrees north; WGS 84.")
