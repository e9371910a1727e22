"""Timings of the engine against what people have today, in one process, side by side: what `trimtab bench` runs."""
