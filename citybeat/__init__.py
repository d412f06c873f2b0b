"""Collects a city's sensor readings from MQTT, checks them, stores them in TimescaleDB and serves them over HTTP."""

__version__ = "0.1.0"
