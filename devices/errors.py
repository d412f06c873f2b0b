"""What can be wrong, as types and codes.

Two families that never mix: a `Reason` says what a *sender* did wrong (its message or reading is kept in quarantine under
that code, and its neighbours are served); an exception says what *we* or an operator did wrong.
"""

import enum


class Reason(enum.StrEnum):
    """Why a message or a reading was refused. The codes are stored, so they are never renamed."""

    # The whole message: nothing in it could be read.
    UNKNOWN_TOPIC = "unknown_topic"  # outside city/v1/{source}/{channel}
    UNKNOWN_CHANNEL = "unknown_channel"  # no such channel in the contract
    TOO_LARGE = "too_large"  # more bytes than the setting allows
    INVALID_UTF8 = "invalid_utf8"
    MALFORMED = "malformed"  # not JSON
    WRONG_TYPE = "wrong_type"  # JSON, but of none of the shapes of the contract
    BAD_ENVELOPE = "bad_envelope"  # seq or boot is not what the contract says
    COLUMN_LENGTH = "column_length"  # columns of different lengths
    EMPTY = "empty"  # no reading in it
    BAD_STATUS = "bad_status"  # a status other than online, offline

    # One reading of a message.
    BAD_REPORT = "bad_report"  # an element that is not a report
    BAD_NAME = "bad_name"  # device or metric is not a string
    BAD_TIME = "bad_time"  # not an integer of milliseconds, not RFC 3339 with an offset
    TOO_OLD = "too_old"
    TOO_FAR_AHEAD = "too_far_ahead"
    NOT_A_NUMBER = "not_a_number"
    NOT_FINITE = "not_finite"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_METRIC = "unknown_metric"  # the device has no such sensor
    UNIT_MISMATCH = "unit_mismatch"  # a unit that cannot be converted
    SOURCE_MISMATCH = "source_mismatch"  # the device belongs to another source
    RETIRED = "retired"  # the device was taken out of service
    REFUSED_BY_DATABASE = "refused_by_database"  # everything of ours let it through, and the database did not
    CONFLICT = "conflict"  # another value is stored at that time; accounted as conflict, not as quarantined


class CitybeatError(Exception):
    """Base of every error that citybeat raises on purpose."""


class CatalogueError(CitybeatError, ValueError):
    """A catalogue of metrics cannot be used; the message names the metric and the column."""


class DeviceError(CitybeatError, ValueError):
    """A device or sensor is described wrongly; the message names the field."""
