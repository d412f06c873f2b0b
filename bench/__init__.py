"""Measurements. Each figure stands beside its limit or a peer, measured in the same run: machines are shared and noisy."""
