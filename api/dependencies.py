"""What routes get from the application that they are mounted in."""

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
    """One application's parts; `app.state.service`."""

    pool: ReadPool
    writes: WritePool
    gate: Gate
    catalogue: Catalogue
    version: str
    max_points: int  # points of one answer of /v1/series and /v1/query
    requests: Requests
    export_pool: ReadPool  # apart, so that exports never keep small queries waiting for a connection
    downloads: Downloads
    max_export_series: int
    intake: ReadingsWriter | None  # None: this server takes no readings
    replay: Replay | None  # None: nor anything from quarantine
    uploads: Uploads
    hub: Hub  # what streams listen to


def service(request: Request) -> Service:
    """The parts of the application that serves this request."""
    found = request.app.state.service
    assert isinstance(found, Service)
    return found


Parts = Annotated[Service, Depends(service)]
