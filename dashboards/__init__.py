"""Grafana as code: dashboards and alert rules made from the catalogue, as files or over its HTTP API."""
