"""A process in which the ledger has one counter more: `python -m tests.integration.added_counter DATABASE_URL`.

The list of counters is loaded with one more line before anything else is imported; the caller has added the columns.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

from citybeat import devices

LINE = '    missing: int = _counter(Sort.OUTCOME, "Readings without a value.")\n'
ADDED = '    expired: int = _counter(Sort.OUTCOME, "Readings that came too late.")\n'


def load_list() -> None:
    """Load the module of the counters with the added line."""
    text = Path(devices.__path__[0], "ledger.py").read_text("utf-8")
    assert text.count(LINE) == 1
    name = f"{devices.__name__}.ledger"
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader=None))
    sys.modules[name] = devices.ledger = module
    exec(compile(text.replace(LINE, LINE + ADDED), name, "exec"), module.__dict__)


if __name__ == "__main__":
    load_list()
    runpy.run_module("tests.integration.ledger_readers", run_name="__main__")
