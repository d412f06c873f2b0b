"""The operators' console: a web page that is a client of the API. Imports nothing: settings are read without a web server."""
