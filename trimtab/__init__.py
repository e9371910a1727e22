"""trimtab steers a frozen language model at inference time."""
