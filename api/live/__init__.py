"""Streams: one reader of the outbox a process, and server-sent events."""
