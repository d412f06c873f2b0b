"""Log lines on standard error, in one format for citybeat and its libraries.

Invariant: packages log through the standard library and pass variable parts as keys (`_LOG.info("registered", extra={"source":
name})`); they never log a payload, a password, or a URL that contains one. This module alone decides the format; structlog renders
it. As a second line of defence it removes passwords in URLs and rows quoted by the database from every line, and escapes control
characters so that no text can forge a line.
"""

import logging
import re
import sys
from typing import Final, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Form = Literal["text", "json"]

_FIRST: Final = ("timestamp", "level", "logger", "event")
_PASSWORD: Final = re.compile(r"(\w://[^\s/:@]*:)[^\s/]*@")
#: The part of a database message, within a traceback, that quotes rows; it ends with an empty line or with the text.
_QUOTED: Final = re.compile(r"^(DETAIL|CONTEXT):.*?(?=^\s*$|\Z)", re.MULTILINE | re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def to_stderr(level: str = "INFO", form: Form = "text") -> None:
    """Send all log records of this process to standard error.

    Parameters
    ----------
    level : str
        DEBUG, INFO, WARNING or ERROR.
    form : {"text", "json"}
        text: `key=value …`, with a traceback on lines of its own; json: one object a line, tracebacks included.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    last: Processor = structlog.processors.JSONRenderer(ensure_ascii=False) if form == "json" else _text
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _clean, last],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def redacted(text: str) -> str:
    """Replace the passwords in the URLs of a text.

    Examples
    --------
    >>> redacted("cannot reach postgresql://citybeat:s3cret@db:5432/citybeat")
    'cannot reach postgresql://citybeat:***@db:5432/citybeat'
    """
    return _PASSWORD.sub(r"\1***@", text)


def _clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        # Other types are rendered as text anyway.
        if not isinstance(value, bool | int | float | None):
            text = _QUOTED.sub(r"\1: …\n", redacted(str(value))).rstrip()
            event[key] = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    return event


_LINE: Final = structlog.processors.LogfmtRenderer(key_order=_FIRST, drop_missing=True, bool_as_flag=False)


def _text(logger: WrappedLogger, method: str, event: EventDict) -> str:
    # A traceback is for people to read, so it gets lines of its own.
    behind = [str(event.pop(key)) for key in ("exception", "stack") if key in event]
    named = {re.sub(r"\s", "_", key): value for key, value in event.items()}
    return "\n".join([_LINE(logger, method, named), *behind])
