"""The closed type: everything that steers is a Policy, and everything made from policies is a Policy again.

A policy is a pure function of what its leaves say. Leaves are the only things with weights and caches; the state of a
decode is a value that goes in and comes out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.errors import PolicyError, PromptError, UsageError
from trimtab.policies.knob import Knob, KnobValues, Scalar
from trimtab.policies.state import Host, State
from trimtab.policies.vector import Linear
from trimtab.policies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from trimtab.decoding.answer import Answer
    from trimtab.decoding.constraints import Constraints
    from trimtab.decoding.drafters import Draft

Prompt = Sequence[int]


class Policy(ABC):
    """Anything that gives next-token log-probabilities for a batch of prefixes.

    Policies combine with ``*``, ``/`` and ``**`` into policies. A class either is abstract or is never subclassed.
    """

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The tokens it assigns probabilities to."""

    @property
    @abstractmethod
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs a request may bind."""

    @property
    @abstractmethod
    def reference(self) -> Policy:
        """The policy that KL is measured from: the untouched base, which is the leftmost leaf's."""

    @property
    @abstractmethod
    def cuts(self) -> bool:
        """Whether it keeps tokens out on purpose, so that the mass it covers is worth knowing."""

    @abstractmethod
    def leaves(self, knobs: KnobValues) -> tuple[Leaf, ...]:
        """Return the leaves that must be evaluated under these knob values, without duplicates."""

    @abstractmethod
    def combine(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> Tensor:
        """Turn what the leaves say into the policy's own log-probabilities; nothing waits for the device.

        Args:
            leaf_logits: for each needed leaf, unnormalised log-probabilities, shape (B, T, V).
            knobs: the rows' knob values, each of shape (B,).

        Returns:
            Normalised log-probabilities in nats, shape (B, T, V); NaN where a leaf is broken or no token is possible.
        """

    @abstractmethod
    def diagnose(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> PolicyError | None:
        """Say what is wrong with rows that ``combine`` made NaN, or nothing when all is well; takes its arguments."""

    # -- the algebra -------------------------------------------------------------------------------------------------

    def __mul__(self, other: Policy) -> Policy:
        if not isinstance(other, Policy):
            return NotImplemented
        from trimtab.policies.product import Product

        return Product.of([(self, 1.0), (other, 1.0)])

    def __truediv__(self, other: Policy) -> Policy:
        if not isinstance(other, Policy):
            return NotImplemented
        from trimtab.policies.product import Product

        return Product.of([(self, 1.0), (other, -1.0)])

    def __pow__(self, exponent: Scalar) -> Policy:
        from trimtab.policies.product import Product

        return Product.of([(self, exponent)])

    # -- evaluation --------------------------------------------------------------------------------------------------

    def init(
        self, prompts: Sequence[Prompt], knobs: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None
    ) -> tuple[Tensor, State]:
        """Prefill the prompts, each once.

        Args:
            prompts: B sequences of token ids, each at least one token long; they may differ in length.
            knobs: knob values for all rows, or one mapping a row.

        Returns:
            Log-probabilities of each row's next token, shape (B, V), and the state to step from.
        """
        from trimtab.policies.advance import init

        (log_probs,), state = init([self], prompts, knobs)
        return log_probs, state

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Feed tokens to every row.

        Args:
            state: what ``init`` or ``step`` returned; it stays valid.
            tokens: a block of token ids, shape (B, T); T = 1 is plain decoding.

        Returns:
            Log-probabilities after each fed token, shape (B, T, V), and the next state.
        """
        from trimtab.policies.advance import step

        (log_probs,), state = step([self], state, tokens)
        return log_probs, state

    def next_log_probs(self, prompts: Sequence[str], knobs: Mapping[str, float] | None = None) -> Tensor:
        """Return the normalised log-probabilities of the next token of each prompt, in nats, shape (B, V)."""
        with torch.no_grad():
            return self.init([self.vocabulary.encode(prompt) for prompt in prompts], knobs)[0]

    def log_probs(self, prompt: str, continuation: str, knobs: Mapping[str, float] | None = None) -> Tensor:
        """Return the log-probability of each token of a continuation, in nats, shape (T,).

        The prompt is encoded with the continuation, as one text: the continuation's tokens are those that differ from
        the prompt's own encoding, so a tokenizer that merges across the seam is scored on what it would really see.
        """
        whole, head = self.vocabulary.encode(prompt + continuation), self.vocabulary.encode(prompt)
        shared = next(
            (i for i, (a, b) in enumerate(zip(whole, head, strict=False)) if a != b), min(len(head), len(whole))
        )
        if not 0 < shared < len(whole):
            raise PromptError(
                given=f"the continuation {continuation!r} of {prompt!r}",
                expected="a prompt and a continuation of at least one token each",
                hint="give both some text",
            )
        from trimtab.policies.advance import sequence_log_probs

        with torch.no_grad():
            return sequence_log_probs(self, [whole[:shared]], [whole[shared:]], knobs)[0]

    def generate(  # noqa: PLR0913 -- the public face, every argument by keyword
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = 64,
        min_new_tokens: int = 0,
        n: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: str | int | Sequence[str | int] = (),
        seed: int | None = None,
        knobs: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
        keywords: Constraints | Sequence[Constraints | None] | None = None,
        draft: Draft = None,
        draft_tokens: int | None = None,
    ) -> list[Answer]:
        """Sample ``n`` answers to each prompt.

        Args:
            prompts: one text or several.
            max_new_tokens: longest answer, in tokens, at least 1.
            min_new_tokens: tokens before an answer may end.
            n: answers a prompt; the prompt is prefilled once however many are asked for.
            temperature: softmax temperature of the product; 0 is greedy.
            top_k: keep the k likeliest tokens; 0 keeps all.
            top_p: keep the smallest set of tokens with at least this much probability.
            min_p: keep tokens with at least this share of the likeliest token's probability.
            repetition_penalty: multiply the log-probability of tokens already in the row by this.
            stop: texts and token ids that end an answer; they are cut off. A special token is stopped at by its id.
            seed: of the request; the same seed gives the same answers whatever else is in the batch, but a prompt that
                comes twice gets different answers. None draws one.
            knobs: knob values for all prompts, or one mapping a prompt.
            keywords: words that answers must hold, for all prompts or one (or None) a prompt; an answer that lacks
                some says which.
            draft: who drafts tokens that the policy verifies in blocks, which is faster and exact: a cheap policy,
                "lookup" (the row's own text), "auto" (whoever pays best), or None. The distribution is the same, and
                at temperature 0 the answers are; with a seed, sampled answers repeat only where ``draft_tokens`` is
                given and the batch is the same.
            draft_tokens: drafts a block, from 1 to 12; None adapts to what is measured to pay, and steps plainly where
                nothing does.

        Returns:
            ``n`` answers a prompt, in the order of the prompts.

        Raises:
            PromptError: a prompt is empty or too long for the context.
            KnobError: a knob value is unknown or out of range.
            ConfigError: a sampling setting is out of its range, or a keyword cannot be spelled.

        Example:
            >>> from trimtab.policies.toy import Table
            >>> coin = Table.of({"": {"heads": 0.75, "tails": 0.25}})
            >>> coin.generate("heads", max_new_tokens=3, temperature=0)[0].text
            'heads heads heads'
        """
        from trimtab.decoding.generate import generate
        from trimtab.decoding.request import Settings
        from trimtab.decoding.sampling import Sampling

        settings = Settings.of(
            Sampling(temperature, top_k, top_p, min_p, repetition_penalty),
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
            stop=stop,
            seed=seed,
        )
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return generate(
            self, texts, settings, n=n, knobs=knobs, keywords=keywords, draft=draft, draft_tokens=draft_tokens
        )


class Leaf(Policy):
    """A policy with weights or a table of its own; hashable, equal when it gives the same distributions."""

    @property
    @abstractmethod
    def host(self) -> Host:
        """What holds its weights; leaves of one host are advanced together."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call it."""

    @property
    @abstractmethod
    def context_length(self) -> int | None:
        """Longest sequence it can read, in tokens of the request, or None for no limit."""

    def __add__(self, other: Linear) -> Leaf:
        """Add vectors to its weights; adding nothing gives itself.

        Raises:
            UsageError: it has no weights.
        """
        if not isinstance(other, Linear):
            return NotImplemented
        if other.terms():
            raise UsageError(
                given=f"the vector {other}, added to {self.name}, which has no weights",
                expected="an LM",
                hint="write (base + 0.7 * vector), where base is a model",
            )
        return self

    @property
    def partial(self) -> bool:
        """Whether it knows the probabilities of some tokens only, so that nothing can be divided by it."""
        return False

    def steps_like(self, other: Leaf) -> bool:
        """Return whether rows of both, once prefilled, are stepped alike and so can be joined."""
        return self == other

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """A leaf has no knobs."""
        return ()

    @property
    def cuts(self) -> bool:
        """A leaf keeps nothing out."""
        return False

    def leaves(self, knobs: KnobValues) -> tuple[Leaf, ...]:
        """Return itself."""
        return (self,)

    def combine(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> Tensor:
        """Normalise what it said."""
        return leaf_logits[self].log_softmax(-1)

    def diagnose(self, leaf_logits: Mapping[Leaf, Tensor], knobs: KnobValues) -> PolicyError | None:
        """Say whether it gave NaN, or no possible token."""
        if bool(torch.isfinite(leaf_logits[self].amax(-1)).all()):
            return None
        return PolicyError(
            given=f"NaN, +inf or no possible token from {self.name}",
            expected="a log-probability for every token",
            hint="check its weights, and its dtype: float16 overflows where bfloat16 does not",
        )

    def __str__(self) -> str:
        return self.name
