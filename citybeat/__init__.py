"""The composition root: settings, the command line, and `up`. It wires the other rooms; nobody imports it."""

__version__ = "0.1.0"
