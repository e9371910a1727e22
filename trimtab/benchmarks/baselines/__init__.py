"""Straightforward loops over ``transformers`` that know nothing of trimtab's engine: what it is timed against."""
