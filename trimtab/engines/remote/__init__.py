"""Models that only an API offers."""
