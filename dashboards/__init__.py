"""Grafana as code: panels and dashboards made from the catalogue. Not furnished yet; it may import `devices` only."""
