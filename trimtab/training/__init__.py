"""Training the small parts: rollouts, one loop, and one file an algorithm."""
