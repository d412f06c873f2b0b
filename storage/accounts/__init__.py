"""The ledger, the quarantine, and figures about both."""
