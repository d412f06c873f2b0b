"""The load generator: many messages at a rate, to any broker, and what came of them."""
