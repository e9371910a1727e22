"""The closed type: everything that steers is a Policy, and everything made from policies is a Policy again.

A policy is a pure function of what its leaves say. Leaves are the only things with weights and caches; the state of a
decode is a value that goes in and comes out. ``init`` and ``step`` at the end of this file advance several policies
together, each distinct leaf once: that is how a product and its reference share the base's forward pass.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.errors import PolicyError, PromptError
from trimtab.policies.knob import Knob, KnobValues, Scalar, bind, declared_knobs
from trimtab.policies.state import Host, Part, State
from trimtab.policies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from trimtab.decoding.answer import Answer

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

        Returns:
            ``n`` answers a prompt, in the order of the prompts.

        Raises:
            PromptError: a prompt is empty or too long for the context.
            KnobError: a knob value is unknown or out of range.
            ConfigError: a sampling setting is out of its range.

        Example:
            >>> from trimtab.policies.toy import Table
            >>> coin = Table.of({"": {"heads": 0.75, "tails": 0.25}})
            >>> coin.generate("heads", max_new_tokens=3, temperature=0)[0].text
            'heads heads heads'
        """
        from trimtab.decoding.pool import Settings, generate
        from trimtab.decoding.sampling import Sampling

        stops = [stop] if isinstance(stop, str | int) else stop
        settings = Settings(
            sampling=Sampling(temperature, top_k, top_p, min_p, repetition_penalty),
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
            stop=tuple(each for each in stops if isinstance(each, str)),
            stop_ids=tuple(each for each in stops if isinstance(each, int)),
            seed=secrets.randbits(63) if seed is None else seed,
        )
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return generate(self, texts, settings, n=n, knobs=knobs)


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

    def steps_like(self, other: Leaf) -> bool:
        """Return whether rows of both, once prefilled, are stepped alike and so can be joined."""
        return self == other

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """A leaf has no knobs."""
        return ()

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


def init(
    policies: Sequence[Policy],
    prompts: Sequence[Prompt],
    knobs: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    *,
    leaves: Sequence[Leaf] | None = None,
    check: bool = True,
) -> tuple[list[Tensor], State]:
    """Prefill prompts for several policies at once, each distinct leaf evaluated once.

    Args:
        policies: the policies whose log-probabilities are wanted.
        prompts: B sequences of token ids.
        knobs: knob values for all rows, or one mapping a row.
        leaves: what to evaluate, when more rows with other knob values will join; by default what these rows need.
        check: whether to look for NaN, which waits for the device.

    Returns:
        For each policy log-probabilities of shape (B, V), and the common state.

    Raises:
        PromptError: there are no prompts, or one is empty or longer than a leaf's context.
        KnobError: a knob value is unknown or out of range.
        PolicyError: a leaf gave NaN, or a policy leaves no possible token in some row.
    """
    settings = [dict(knobs)] * len(prompts) if isinstance(knobs, Mapping) else list(knobs or [{}] * len(prompts))
    if len(settings) != len(prompts):
        raise PromptError(
            given=f"{len(settings)} knob settings for {len(prompts)} prompts",
            expected="one mapping for all prompts, or one a prompt",
            hint="pass knobs={...} or a list of the same length as the prompts",
        )
    values = bind(declared_knobs(knob for policy in policies for knob in policy.knobs), settings)
    if leaves is None:
        leaves = needed_leaves(policies, settings)
    _check_prompts(prompts, leaves)
    by_host: dict[Host, list[Leaf]] = {}
    for leaf in leaves:
        by_host.setdefault(leaf.host, []).append(leaf)
    said: dict[Leaf, Tensor] = {}
    parts = []
    for host, hosted in by_host.items():
        logits, state = host.init(hosted, prompts)
        said.update(zip(hosted, logits.unsqueeze(2), strict=True))
        parts.append(Part(host, tuple(hosted), state))
    combined = [each.squeeze(1) for each in combine(policies, said, values, check=check)]
    return combined, State(tuple(parts), values, torch.tensor([len(prompt) for prompt in prompts]))


def needed_leaves(policies: Sequence[Policy], settings: Sequence[Mapping[str, float]]) -> list[Leaf]:
    """Return the leaves that several policies need for rows with these knob values, each once."""
    values = bind(declared_knobs(knob for policy in policies for knob in policy.knobs), settings)
    return list(dict.fromkeys(leaf for policy in policies for leaf in policy.leaves(values)))


def step(policies: Sequence[Policy], state: State, tokens: Tensor, *, check: bool = True) -> tuple[list[Tensor], State]:
    """Feed a (B, T) block to the common state of several policies.

    Args:
        policies: the policies whose log-probabilities are wanted.
        state: where their rows stand.
        tokens: token ids, (B, T).
        check: whether to look for NaN, which waits for the device.

    Returns:
        For each policy log-probabilities after every fed token, shape (B, T, V), and the next state.

    Raises:
        PolicyError: a leaf gave NaN, or a policy leaves no possible token in some row.
    """
    said, advanced = feed(state, tokens)
    return combine(policies, said, state.knobs, check=check), advanced


def feed(state: State, tokens: Tensor) -> tuple[dict[Leaf, Tensor], State]:
    """Feed a (B, T) block to every leaf of a state.

    Returns:
        For each leaf logits after every fed token, shape (B, T, V), and the next state.
    """
    said: dict[Leaf, Tensor] = {}
    parts = []
    for part in state.parts:
        logits, fed = part.host.step(part.state, tokens)
        said.update(zip(part.leaves, logits, strict=True))
        parts.append(Part(part.host, part.leaves, fed))
    return said, State(tuple(parts), state.knobs, state.lengths + tokens.shape[1])


def combine(
    policies: Sequence[Policy], said: Mapping[Leaf, Tensor], knobs: KnobValues, *, check: bool = True
) -> list[Tensor]:
    """Return what each policy makes of its leaves' logits; log-probabilities of shape (B, T, V).

    Raises:
        PolicyError: a leaf gave NaN, or a policy leaves no possible token in some row.
    """
    combined = [policy.combine(said, knobs) for policy in policies]
    if check and not all(bool(torch.isfinite(each.amax(-1)).all()) for each in combined if each.numel()):
        for policy in policies:
            if (error := policy.diagnose(said, knobs)) is not None:
                raise error
    return combined


def sequence_log_probs(
    policy: Policy,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[int]],
    knobs: Mapping[str, float] | None = None,
) -> list[Tensor]:
    """Return the log-probability of every token of every continuation, each of shape (T_b,), in nats."""
    width = max(len(continuation) for continuation in continuations)
    block = torch.tensor([[*continuation, *[0] * (width - len(continuation))] for continuation in continuations])
    first, state = policy.init(prompts, knobs)
    rest, _ = policy.step(state, block[:, :-1])
    log_probs = torch.cat([first.unsqueeze(1), rest], dim=1)
    chosen = log_probs.gather(2, block.to(log_probs.device).unsqueeze(2)).squeeze(2)
    return [row[: len(continuation)] for row, continuation in zip(chosen, continuations, strict=True)]


def _check_prompts(prompts: Sequence[Prompt], leaves: Sequence[Leaf]) -> None:
    """Refuse what no leaf could read."""
    if not prompts:
        raise PromptError(given="no prompts", expected="at least one prompt", hint="pass a prompt")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise PromptError(
                given=f"prompt {number}, which has no tokens", expected="at least one token", hint="give it some text"
            )
        for leaf in leaves:
            if leaf.context_length is not None and len(prompt) > leaf.context_length:
                raise PromptError(
                    given=f"prompt {number} of {len(prompt)} tokens",
                    expected=f"at most {leaf.context_length} tokens, the context of {leaf.name}",
                    hint="shorten the prompt",
                )
