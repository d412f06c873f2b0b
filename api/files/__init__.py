"""Tables as files, in both directions."""
