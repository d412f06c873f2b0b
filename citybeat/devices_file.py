"""Devices from a JSON file, checked field by field."""

from pathlib import Path
from typing import Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from devices.device import Device
from devices.errors import DeviceError

_ADAPTER: Final = TypeAdapter(list[Device], config=ConfigDict(extra="forbid"))


def parse(file: Path) -> list[Device]:
    """The devices of a file.

    Raises
    ------
    DeviceError
        The file cannot be read, or is not an array of devices; the message names the place and what is wrong, for every mistake.
    """
    try:
        return _ADAPTER.validate_json(file.read_bytes())
    except OSError as exc:
        raise DeviceError(f"{file}: {exc.strerror}") from exc
    except ValidationError as exc:
        mistakes = (f"{'.'.join(str(part) for part in error['loc']) or 'file'}: {error['msg']}" for error in exc.errors())
        raise DeviceError(f"{file}: " + "; ".join(mistakes)) from exc
