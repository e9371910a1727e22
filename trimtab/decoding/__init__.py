"""From policies to answers: sampling and the row pool."""
