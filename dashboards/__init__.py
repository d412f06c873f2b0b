"""Grafana as code: dashboards and alert rules built from the catalogue, delivered as files or over Grafana's HTTP API."""
