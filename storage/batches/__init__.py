"""The write path: one transaction a batch."""
