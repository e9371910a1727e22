"""What an engine can do, as a value: engines differ in it, and what a policy becomes on them follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Abilities:
    """What an engine can do.

    Args:
        name: what tables call it.
        known: of how many tokens the base's log-probability is known at each step: None for all of them, 0 where the
            engine gives text alone.
        inside: whether all LMs run in it, in one forward pass. Otherwise it serves the plain base alone, and every
            other LM runs here, beside it.
        streams: whether each LM in it reads a stream of its own, so that prompt views and control tokens can differ.
        in_memory: whether it runs what is in memory, with adapters and vectors beside the weights, each row its own.
            Otherwise it reads weights from disk, with adapters merged into them, and a request may add one LoRA to its
            first LM.
        distributions: whether it sees the distribution of each LM, as mixtures and cuts need; otherwise only the
            weighted sum of their logits.
        keywords: whether it masks tokens for the keywords of a request.
        every_token: whether a search may look at the distribution of each token; otherwise it gets finished chunks.
        stops: whether an answer that a stop text ended keeps the tokens of that text, so that chunks can be sampled up
            to one; otherwise they are sampled as long as they may be, and cut here.
        biases: on how many tokens the base's endpoint takes a bias, under which it samples; 0 where none is sent.
    """

    name: str
    known: int | None
    inside: bool
    streams: bool
    in_memory: bool
    distributions: bool
    keywords: bool
    every_token: bool
    stops: bool = True
    biases: int = 0


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

REMOTE_TOP_K = Abilities(
    "remote, top 20",
    known=20,
    inside=False,
    streams=False,
    in_memory=False,
    distributions=True,
    keywords=False,
    every_token=False,
)
"""An endpoint with the log-probabilities of the 20 likeliest tokens, the most that usual ones give."""

REMOTE_TEXT = replace(REMOTE_TOP_K, name="remote, text", known=0, stops=False)
"""An endpoint that gives text and nothing else."""

REMOTE_BIAS = replace(REMOTE_TEXT, name="remote, bias", biases=300)
"""An endpoint that samples under a bias on 300 tokens, as many as usual ones take."""
