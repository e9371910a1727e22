"""Where policies run: one protocol, and what each engine makes of a policy."""

from trimtab.engines.abilities import REMOTE_BIAS, REMOTE_TEXT, REMOTE_TOP_K, VLLM, Abilities
from trimtab.engines.base import Engine, Update, generate
from trimtab.engines.explain import explain
from trimtab.engines.explanation import Explanation, Part, Verdict
from trimtab.engines.local import LOCAL, LocalEngine
from trimtab.engines.search import search

ALL = (LOCAL, VLLM, REMOTE_TOP_K, REMOTE_BIAS, REMOTE_TEXT)
"""The abilities of every kind of engine."""

__all__ = [
    "ALL",
    "LOCAL",
    "REMOTE_BIAS",
    "REMOTE_TEXT",
    "REMOTE_TOP_K",
    "VLLM",
    "Abilities",
    "Engine",
    "Explanation",
    "LocalEngine",
    "Part",
    "Update",
    "Verdict",
    "explain",
    "generate",
    "search",
]
