"""Load generator: many messages at a rate, to any broker, with a report of the answers."""
