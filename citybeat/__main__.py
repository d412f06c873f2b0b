"""The command line as `python -m citybeat`."""

from citybeat.cli import main

main()
