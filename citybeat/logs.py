"""Log lines on standard error: one form for all of them, ours and the libraries'.

Law: rooms log through the standard library, with what varies as keys (`_LOG.info("registered", extra={"source": name})`), and never
a payload, a password, or an address that contains one. Only here it is decided what a line looks like; structlog renders it. As a
second line of defence passwords in addresses, and rows that the database quotes, are taken out of whatever is logged, and control
characters cannot forge a line.
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
#: Where a database's message, in a traceback, begins to quote rows; it ends with an empty line or the text.
_QUOTED: Final = re.compile(r"^(DETAIL|CONTEXT):.*?(?=^\s*$|\Z)", re.MULTILINE | re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def to_stderr(level: str = "INFO", form: Form = "text") -> None:
    """Send everything that is logged in this process to standard error.

    Parameters
    ----------
    level : str
        DEBUG, INFO, WARNING or ERROR.
    form : {"text", "json"}
        text: `key=value …`, and a traceback on lines of its own; json: an object a line, whatever happened.
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
    """A text without the passwords of the addresses in it.

    Examples
    --------
    >>> redacted("cannot reach postgresql://citybeat:s3cret@db:5432/citybeat")
    'cannot reach postgresql://citybeat:***@db:5432/citybeat'
    """
    return _PASSWORD.sub(r"\1***@", text)


def _clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        # What is no number is shown as text anyway.
        if not isinstance(value, bool | int | float | None):
            text = _QUOTED.sub(r"\1: …\n", redacted(str(value))).rstrip()
            event[key] = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
    return event


_LINE: Final = structlog.processors.LogfmtRenderer(key_order=_FIRST, drop_missing=True, bool_as_flag=False)


def _text(logger: WrappedLogger, method: str, event: EventDict) -> str:
    # A traceback is for people to read, so it is not squeezed into its line.
    behind = [str(event.pop(key)) for key in ("exception", "stack") if key in event]
    named = {re.sub(r"\s", "_", key): value for key, value in event.items()}
    return "\n".join([_LINE(logger, method, named), *behind])
