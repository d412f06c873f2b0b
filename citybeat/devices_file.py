"""Devices from a file, in the forms that the API takes: CSV, GeoJSON, JSON."""

from pathlib import Path
from typing import Final

from citybeat.api.files import imports
from citybeat.api.files.imports import Form
from citybeat.devices.catalogue import Catalogue
from citybeat.devices.device import Device
from citybeat.devices.errors import DeviceError

_FORMS: Final = {".json": Form.JSON, ".geojson": Form.GEOJSON, ".csv": Form.CSV}
#: Mistakes that are shown; nobody reads more of them in a terminal.
_SHOWN: Final = 50


def parse(file: Path, metrics: Catalogue) -> list[Device]:
    """The devices of a file; its name says the form.

    Parameters
    ----------
    file : Path
    metrics : Catalogue
        What a sensor may measure.

    Raises
    ------
    DeviceError
        The file cannot be read, or something is wrong with it; the message names the place and what is wrong, for every mistake.
    """
    form = _FORMS.get(file.suffix.lower())
    if form is None:
        raise DeviceError(f"{file}: a file of devices ends in {', '.join(_FORMS)}")
    try:
        entries, mistakes = imports.read(file.read_bytes(), form, metrics)
    except OSError as exc:
        raise DeviceError(f"{file}: {exc.strerror}") from exc
    if mistakes:
        shown = "; ".join(map(str, mistakes[:_SHOWN])) + (f"; and {len(mistakes) - _SHOWN} more" if len(mistakes) > _SHOWN else "")
        raise DeviceError(f"{file}: {shown}")
    return [entry.device for entry in entries]
