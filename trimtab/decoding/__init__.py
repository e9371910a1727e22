"""From policies to answers: sampling, speculation and the row pool."""

from trimtab.decoding.answer import Answer
from trimtab.decoding.pool import Pool, decode
from trimtab.decoding.request import Bounds, Request, Row, Settings
from trimtab.decoding.sampling import Sampling

__all__ = ["Answer", "Bounds", "Pool", "Request", "Row", "Sampling", "Settings", "decode"]
