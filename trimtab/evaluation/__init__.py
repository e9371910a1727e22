"""Measuring policies side by side, and the page that shows it."""

from trimtab.evaluation.compare import Comparison, Result, compare
from trimtab.evaluation.mauve import mauve
from trimtab.evaluation.metrics import distinct_n, mean_kl, mean_length, perplexity, repetition
from trimtab.evaluation.references import bleu, rouge
from trimtab.evaluation.report import write_report
from trimtab.evaluation.search_page import write_search_page
from trimtab.evaluation.spelling import Piece, spell

__all__ = [
    "Comparison",
    "Piece",
    "Result",
    "bleu",
    "compare",
    "distinct_n",
    "mauve",
    "mean_kl",
    "mean_length",
    "perplexity",
    "repetition",
    "rouge",
    "spell",
    "write_report",
    "write_search_page",
]
