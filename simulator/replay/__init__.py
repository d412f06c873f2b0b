"""Replay of recorded files: they are published as if their devices were sending."""
