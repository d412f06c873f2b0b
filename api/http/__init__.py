"""Requests and responses: keys, limits, parameters, models, errors."""
