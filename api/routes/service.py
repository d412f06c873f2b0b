"""The parts of the application that routes call, as `app.state.service`.

Only routes take the whole; functions below them take the parts that they need as arguments.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from citybeat.api.files.download import Downloads
from citybeat.api.http.gate import Gate
from citybeat.api.http.readings_writer import ReadingsWriter, Replay, Uploads
from citybeat.api.http.requests import Requests
from citybeat.api.live.hub import Hub
from citybeat.devices.catalogue import Catalogue
from citybeat.storage.db.pool import ReadPool, WritePool


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """The parts of one application."""

    pool: ReadPool
    writes: WritePool
    gate: Gate
    catalogue: Catalogue
    version: str
    max_points: int  # points of one answer of /v1/series and /v1/query
    requests: Requests
    export_pool: ReadPool  # separate, so that exports never keep small queries waiting for a connection
    downloads: Downloads
    max_export_series: int
    intake: ReadingsWriter | None  # None: this server takes no readings
    replay: Replay | None  # None: this server retries nothing from quarantine
    uploads: Uploads
    hub: Hub  # distributes new readings and states to streams


def _service(request: Request) -> Service:
    found = request.app.state.service
    assert isinstance(found, Service)
    return found


ServiceDep = Annotated[Service, Depends(_service)]
