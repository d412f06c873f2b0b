"""The registry's snapshot: arrays that ingest looks series up in. Pure."""
