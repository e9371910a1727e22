"""trimtab steers a frozen language model at inference time: policies multiply, values search, weights add."""

__version__ = "0.1.0"
