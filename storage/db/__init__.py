"""Connections, named SQL, PostgreSQL's binary COPY format, and locks of sources."""
