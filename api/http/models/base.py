"""Common parts of the models of answers."""

from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

from citybeat.devices.device import DEVICE_FIELDS, DeviceField

_M = TypeVar("_M", bound=BaseModel)

TIMES: Final = "Epoch milliseconds, UTC; with a fraction only where a reading has microseconds."
FLAGS: Final = (
    "Names of its quality flags: range, step, stuck, suspect, late, future, clock, manual_bad, manual_good. Empty: a good reading."
)


class Model(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="forbid")


class PointModel(Model):
    """A point of GeoJSON (RFC 7946)."""

    type: Literal["Point"]
    coordinates: list[float] = Field(description="Degrees east, degrees north; WGS 84.")


def with_device_fields(
    shape: Callable[[DeviceField], tuple[Any, Any]], *, without: tuple[str, ...] = ()
) -> Callable[[type[_M]], type[_M]]:
    """Decorate a model so that it has the fields of `DEVICE_FIELDS` that it does not declare itself.

    Parameters
    ----------
    shape : callable
        The annotation of a field and its default (...: it is required).
    without : tuple of str
        Names of fields that the model does not have.
    """

    def extended(model: type[_M]) -> type[_M]:
        added: dict[str, Any] = {}
        for name, about in DEVICE_FIELDS.items():
            if name not in model.model_fields and name not in without:
                annotation, default = shape(about)
                added[name] = (annotation, Field(default, description=about.description, examples=[about.example]))
        return create_model(model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **added)

    return extended
