"""Recorded files, published as if their devices were there."""
