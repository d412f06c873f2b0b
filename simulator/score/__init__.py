"""How right flags and accounts are, judged by the truth."""
