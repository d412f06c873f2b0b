"""Score of flags and ledger against the truth."""
