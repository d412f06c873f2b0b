"""Judged readings to rows: the commit of a batch, retries of quarantine, flags judged again, housekeeping."""
