"""GET /v1/stream, over TCP: what is stored is told once each, whatever clients do; and nobody waits for them."""

import json
import random
import socket
import threading
import time
from contextlib import ExitStack, closing, contextmanager

import httpx
import pytest
import uvicorn

from api import hub as hubs
from api import stream as streams
from api.app import create_app, end_streams
from api.gate import EVERYTHING
from devices.catalogue import builtin
from devices.device import Device, Sensor
from devices.flags import Verdict
from ingest.message import Message
from ingest.pipeline import Pipeline
from ingest.validate import Limits
from storage import flagging, keys, outbox, registry, states
from storage.database import connect
from storage.keys import Scope
from storage.outbox import Bounds
from storage.selection import Restriction
from tests.sse import Reader, rows

T0 = 1_767_225_600
GONE = Bounds(keep=Bounds.__annotations__ and __import__("datetime").timedelta(0), bytes=0)


def device(name, source="gw", district="north", metrics=("temperature",), interval=None):
    sensors = tuple(Sensor(metric=metric, interval=interval) for metric in metrics)
    return Device(id=name, source=source, domain="environment", district=district, sensors=sensors)
