"""The algebra: what gives next-token log-probabilities, and how it combines."""
