"""Wire formats: bytes to columns of readings and back. Pure."""
