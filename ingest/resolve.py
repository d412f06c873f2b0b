"""Names to series: which series a reading belongs to, and whether its source may send it. Pure."""

from itertools import repeat

import numpy as np

from devices.batch import Bools, Int32
from devices.decoded import Decoded, Refusal
from devices.errors import Reason
from devices.registry import Registry


def resolve(decoded: Decoded, source_ids: Int32, registry: Registry) -> tuple[Int32, list[Refusal]]:
    """Find the series of each reading.

    Parameters
    ----------
    decoded : Decoded, n readings of m messages
    source_ids : (m,) int32
        Id of the source of each message.
    registry : Registry

    Returns
    -------
    series : (n,) int32
        0 where there is none that this source may write.
    refused : list of Refusal
        One for each such reading.
    """
    found = map(registry.series.get, zip(decoded.device, decoded.metric, strict=True), repeat(0))
    series = np.fromiter(found, np.int32, len(decoded.device))
    known = series > 0
    mine = registry.owner[series] == source_ids[decoded.message]
    usable = known & mine & ~registry.retired[series]
    if usable.all():
        return series, []
    rows = np.flatnonzero(~usable)
    refused = [_refusal(decoded, int(row), registry, known, mine) for row in rows]
    return np.where(usable, series, 0).astype(np.int32), refused


def _refusal(decoded: Decoded, row: int, registry: Registry, known: Bools, mine: Bools) -> Refusal:
    device, metric = decoded.device[row], decoded.metric[row]
    if not known[row] and device not in registry.devices:
        reason, detail = Reason.UNKNOWN_DEVICE, f"no device {device[:128]!r} is registered"
    elif not known[row]:
        reason, detail = Reason.UNKNOWN_METRIC, f"device {device[:128]!r} has no sensor {metric[:64]!r}"
    elif not mine[row]:
        reason, detail = Reason.SOURCE_MISMATCH, f"device {device!r} belongs to another source"
    else:
        reason, detail = Reason.RETIRED, f"device {device!r} was taken out of service"
    return Refusal(message=int(decoded.message[row]), index=int(decoded.index[row]), reason=reason, detail=detail)
