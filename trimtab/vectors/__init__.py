"""Vectors: differences of weights, made from two models, made smaller, and combined."""

from trimtab.vectors.combine import dare, realise, slerp, ties
from trimtab.vectors.compress import Compression, compress
from trimtab.vectors.distance import log_prob_error
from trimtab.vectors.extract import between
from trimtab.vectors.inspect import Norm, norms
from trimtab.vectors.mask import only
from trimtab.vectors.sibling import transferred

__all__ = [
    "Compression",
    "Norm",
    "between",
    "compress",
    "dare",
    "log_prob_error",
    "norms",
    "only",
    "realise",
    "slerp",
    "ties",
    "transferred",
]
