"""What steering inside vLLM can do. It imports nothing of vLLM."""

from trimtab.engines.abilities import Abilities

VLLM = Abilities(
    "vllm",
    known=None,
    inside=True,
    streams=False,
    in_memory=False,
    distributions=False,
    keywords=False,
    every_token=False,
)
"""Base and guides are one model there, over one sequence of tokens: it adds their weighted logits, and no more."""
