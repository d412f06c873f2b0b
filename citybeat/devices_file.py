"""Reads devices from a file in a form that the API accepts: CSV, GeoJSON or JSON."""

from pathlib import Path
from typing import Final

from citybeat.api.files import imports
from citybeat.api.files.imports import Form
from citybeat.devices.catalogue import Catalogue
from citybeat.devices.device import Device
from citybeat.devices.errors import DeviceError

_FORMS: Final = {".json": Form.JSON, ".geojson": Form.GEOJSON, ".csv": Form.CSV}
#: Most mistakes shown: more are not read in a terminal.
_SHOWN: Final = 50


def parse(file: Path, metrics: Catalogue) -> list[Device]:
    """Read the devices of a file, whose name says its form.

    Parameters
    ----------
    file : Path
    metrics : Catalogue
        Metrics that a sensor may measure.

    Raises
    ------
    DeviceError
        The file cannot be read or contains mistakes; the message names the place of each.
    """
    form = _FORMS.get(file.suffix.lower())
    if form is None:
        raise DeviceError(f"{file}: the name of a file of devices must end in {', '.join(_FORMS)}")
    try:
        entries, mistakes = imports.read(file.read_bytes(), form, metrics)
    except OSError as exc:
        raise DeviceError(f"{file}: {exc.strerror}") from exc
    if mistakes:
        shown = "; ".join(map(str, mistakes[:_SHOWN])) + (f"; and {len(mistakes) - _SHOWN} more" if len(mistakes) > _SHOWN else "")
        raise DeviceError(f"{file}: {shown}")
    return [entry.device for entry in entries]
