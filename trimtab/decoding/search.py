"""Search: propose chunks, score them, keep some, repeat; or choose every token among candidates.

Best-of-N and chunk-level beam search are settings of the first, ARGS and FUDGE of the second.

All prompts that fit run together. Each prompt is prefilled once; finished answers compete with the others to the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from trimtab.decoding.candidates import Candidates
from trimtab.decoding.constraints import Constraints
from trimtab.decoding.generate import requests_of
from trimtab.decoding.hunt import Found, Hunt
from trimtab.decoding.queue import Queue, check_lengths
from trimtab.decoding.request import Bounds, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.decoding.shape import Shape
from trimtab.decoding.stepper import Stepper
from trimtab.decoding.token_wise import TokenWise
from trimtab.decoding.trail import Trail
from trimtab.decoding.wave import Wave
from trimtab.errors import ConfigError
from trimtab.policies.advance import needed_leaves
from trimtab.policies.base import Policy
from trimtab.values.combine import Sum
from trimtab.values.log_likelihood import LogLikelihood
from trimtab.values.value import Value


def search(  # noqa: PLR0913 -- the public face, every setting by keyword
    policy: Policy,
    prompts: str | Sequence[str],
    value: Value,
    shape: Shape | Candidates = Shape(),  # noqa: B008 -- a frozen value
    *,
    max_new_tokens: int = 64,
    min_new_tokens: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: str | int | Sequence[str | int] = (),
    seed: int | None = None,
    knobs: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    keywords: Constraints | Sequence[Constraints | None] | None = None,
    max_rows: int = 64,
) -> list[Found]:
    """Search for answers that a value likes, among what a policy proposes.

    From every beam K chunks are sampled, which end after L tokens, at a text, or where the policy is unsure; the value
    scores all W * K answers so far, and the shape's rule says which of them go on. Rows whose chunks are short wait for
    the others. Answers that have ended compete with the others. A row's random numbers belong to its
    place among the W * K, so a search of one beam over whole answers is best-of-K over the answers of
    :meth:`Policy.generate` with the same seed, and one of one beam and one branch is its first answer.

    With :class:`~trimtab.decoding.candidates.Candidates` every token is chosen among the policy's k likeliest by what
    the value makes of each; a prompt then has one row and one hypothesis, with the random numbers of its first answer.

    Args:
        policy: what proposes, knobs and all.
        prompts: one text or several.
        value: what scores answers so far.
        shape: W, K, where chunks end, and who is kept; :func:`~trimtab.decoding.shape.best_of_n`, ``chunk_beam``,
            ``blockwise``, ``deal``, ``rejection``, ``speculative_rejection`` and ``smc`` make them; or how tokens are
            chosen among candidates, see :func:`~trimtab.decoding.candidates.args`, ``fudge``, ``rad``, ``cd``, ``vas``.
        max_new_tokens: longest answer, in tokens.
        min_new_tokens: tokens before an answer may end.
        temperature: as in :meth:`Policy.generate`, like the settings up to ``stop``.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with at least this much probability.
        min_p: keep tokens with at least this share of the likeliest token's probability.
        repetition_penalty: multiply the log-probability of tokens already in the row by this.
        stop: texts and token ids that end an answer.
        seed: of the random numbers; None draws one.
        knobs: knob values for all prompts, or one mapping a prompt.
        keywords: words that answers must hold, for all prompts or one a prompt.
        max_rows: rows that run at once; as many prompts are searched together as fit. A value that has to read every
            candidate reads as many at once.

    Returns:
        What was found for each prompt, in their order.

    Raises:
        ConfigError: W * K is more than ``max_rows``, k more than there are tokens, the value says nothing of unfinished
            answers where tokens are chosen by it, or a setting is out of its range.
        VocabularyError: the value reads other tokens than the policy writes.
        RewardError: nothing that was proposed for a prompt could be scored, or the value allows no candidate.
        PolicyError: everything that was proposed for a prompt broke.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> from trimtab.values import RewardValue
        >>> coin = Table.of({"": {"heads": 0.5, "tails": 0.5}})
        >>> heads = RewardValue(lambda completions, **_: [float(text.count("heads")) for text in completions])
        >>> found = search(coin, "tails", heads, Shape(beams=4, branches=4, chunk=1), max_new_tokens=6, seed=0)
        >>> found[0].best.text
        'heads heads heads heads heads heads'

    Reference: Zhou et al. (2024), Weak-to-Strong Search; Liu et al. (2024), Integrated Value Guidance. There a beam's
    chunks are scored again from text; here values carry their own caches.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if isinstance(shape, Candidates):
        shape.check(policy.vocabulary, value)
    elif shape.rows > max_rows:
        raise ConfigError(
            given=f"beams x branches = {shape.beams} x {shape.branches} = {shape.rows} rows a prompt",
            expected=f"at most {max_rows} rows",
            hint="lower beams or branches, or raise max_rows",
        )
    elif shape.likelihood:
        likely: Value = LogLikelihood()
        value = Sum(((1.0, value), (shape.likelihood, likely)))
    settings = Settings.of(
        Sampling(temperature, top_k, top_p, min_p, repetition_penalty),
        min_new_tokens=min_new_tokens,
        max_new_tokens=max_new_tokens,
        stop=stop,
        seed=seed,
    )
    requests = requests_of(policy.vocabulary, texts, shape.rows, knobs, keywords)
    stepper = Stepper(policy, metered=True)
    leaves = needed_leaves(stepper.policies, [request.knobs for request in requests])
    # Whole prompts only: a wave holds all rows of its prompts.
    queue = Queue(stepper.policies, [], leaves, [], Bounds(rows=max_rows // shape.rows * shape.rows))
    check_lengths(value.leaves, [request.prompt for request in requests], max_new_tokens)
    for request in requests:
        queue.add(request, settings, 0)
    hunts: list[Hunt | Trail] = []
    with torch.inference_mode():
        while (admitted := queue.admit([])) is not None:
            if isinstance(shape, Candidates):
                hunts += TokenWise(stepper, value, shape, max_rows, *admitted).run()
            else:
                hunts += Wave(stepper, value, shape, leaves, *admitted).run()
    return [hunt.found(text, policy.vocabulary, settings) for hunt, text in zip(hunts, texts, strict=True)]
