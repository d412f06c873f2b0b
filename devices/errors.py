"""Codes of senders' mistakes, and the base types of citybeat's exceptions.

The two are separate: a `Reason` is a mistake of a *sender*, whose message or reading goes into quarantine under that code while its
neighbours are processed; an exception is a mistake of citybeat or of an operator.
"""

import enum


class Reason(enum.StrEnum):
    """The reason for refusing a message or a reading. The codes are stored, so they are never renamed."""

    # The whole message is refused: nothing in it could be read.
    UNKNOWN_TOPIC = "unknown_topic"  # outside city/v1/{source}/{channel}
    UNKNOWN_CHANNEL = "unknown_channel"  # no such channel in the contract
    TOO_LARGE = "too_large"  # more bytes than the setting allows
    INVALID_UTF8 = "invalid_utf8"
    MALFORMED = "malformed"  # not JSON
    WRONG_TYPE = "wrong_type"  # JSON, but of no shape of the contract
    BAD_ENVELOPE = "bad_envelope"  # seq or boot does not follow the contract
    COLUMN_LENGTH = "column_length"  # columns of different lengths
    EMPTY = "empty"  # no reading in it
    BAD_STATUS = "bad_status"  # a status other than online, offline

    # One reading of a message is refused.
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
    REFUSED_BY_DATABASE = "refused_by_database"  # it passed every check, and the database refused it
    CONFLICT = "conflict"  # another value is stored at that time; the ledger counts it as conflict, not as quarantined


class CitybeatError(Exception):
    """Base of every exception that citybeat raises on purpose."""


class CatalogueError(CitybeatError, ValueError):
    """A catalogue of metrics is invalid; the message names the metric and the column."""


class DeviceError(CitybeatError, ValueError):
    """The description of a device or sensor is invalid; the message names the field."""
