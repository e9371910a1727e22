"""What becomes of each part of a policy on an engine, decided from the engine's abilities alone; it loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from trimtab.decoding.boundary import Texts, Uncertain
from trimtab.decoding.candidates import Candidates
from trimtab.decoding.constraints import Constraints
from trimtab.decoding.search_plan import build_shape
from trimtab.decoding.shape import Shape
from trimtab.engines.abilities import Abilities
from trimtab.engines.explanation import Explanation, Part
from trimtab.policies.advance import every_leaf
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.knob import Exponent
from trimtab.policies.lm import LM
from trimtab.policies.mixture import Mixture
from trimtab.policies.policy_file import PolicyFile
from trimtab.policies.product import Product
from trimtab.policies.search_settings import SearchSettings
from trimtab.policies.sketch import Sketch
from trimtab.policies.support import Cut, Top
from trimtab.policies.vector import Vector

_LOCAL = "run it with the local engine"
_HERE = "it runs here, beside the endpoint, from weights of its own"
_OWN_ENDPOINT = "its own endpoint is asked for the likeliest tokens, which are all that it knows"
_SAME_TOKENS = "all LMs in the engine read the same tokens"
_ABSORB = "make a plain adapter of it with `trimtab train absorb`"


def explain(
    asked: Policy | PolicyFile,
    abilities: Abilities,
    *,
    search: SearchSettings | None = None,
    keywords: Constraints | None = None,
) -> Explanation:
    """Say how an engine runs every part of a policy.

    Args:
        asked: a policy, or a policy file, of which no weights are read.
        abilities: of the engine.
        search: how answers are searched for; by default what the file says.
        keywords: words that answers must hold.

    Raises:
        ModelError: a guide folder of the file is damaged.
        ConfigError: the ends of the search's chunks cannot be read.

    Example:
        >>> from trimtab.engines.local import LOCAL
        >>> from trimtab.engines.abilities import REMOTE_TOP_K
        >>> from trimtab.policies.support import top_k
        >>> from trimtab.policies.toy import Table
        >>> base, guide = (Table.random(30, seed=seed, name=name) for seed, name in enumerate(["base", "guide"]))
        >>> explain(base * guide, LOCAL).verdict, explain(base * guide, REMOTE_TOP_K).verdict
        ('exact', 'approximate on the top k')
        >>> explain(top_k(base, 20) * guide, REMOTE_TOP_K).verdict
        'exact'
    """
    policy, searched = (asked.sketch(), search or asked.search) if isinstance(asked, PolicyFile) else (asked, search)
    parts = [*_Placed(policy, abilities).parts()]
    if searched is not None:
        parts.append(explain_shape(f"search {searched.method}", build_shape(searched), abilities))
        parts.append(Part(f"value {searched.value}", "exact", "it scores texts here"))
    if keywords is not None:
        parts.append(_keywords(abilities))
    return Explanation(str(policy), abilities.name, tuple(parts))


@dataclass(frozen=True)
class _Placed:
    """A policy on an engine: which of its LMs run where."""

    policy: Policy
    abilities: Abilities

    @cached_property
    def leaves(self) -> list[Leaf]:
        """Its leaves; an engine that takes LoRAs takes them for the first."""
        return every_leaf([self.policy])

    @cached_property
    def served(self) -> Leaf | None:
        """The leaf that an endpoint serves: the plain base, whatever it sees around the prompt."""
        if self.abilities.inside:
            return None
        (base, *_) = map(_sketch, every_leaf([self.policy.reference]))
        return next((leaf for leaf in self.leaves if replace(_sketch(leaf), view=None) == base), None)

    @cached_property
    def asking(self) -> list[Product | Mixture | Cut]:
        """What is combined of more than the endpoint lets one know of its model."""
        known = self.abilities.known
        # A leaf that is an endpoint's likeliest tokens asks for no others.
        if self.served is None or known is None or (known and self.served.partial):
            return []
        return _asking(self.policy, self.served, known)

    def parts(self) -> Iterator[Part]:
        """Say how everything runs but searches and keywords."""
        if self.served is None and not self.abilities.inside:
            yield Part(
                f"base {self.policy.reference}",
                "impossible",
                "an endpoint serves the plain base, which is no factor of the policy",
                f"keep the base as a factor, or {_LOCAL}",
            )
        for leaf in self.leaves:
            yield from self._leaf(leaf, _sketch(leaf))
        for node in _nodes(self.policy):
            yield self._node(node)
        for knob in self.policy.knobs:
            yield Part(f"knob {knob}", "exact", "each request binds its own value")

    def _leaf(self, leaf: Leaf, sketch: Sketch) -> Iterator[Part]:
        """Say how an LM runs, and what it has beside its weights."""
        yield self._weights(leaf, sketch)
        here = not self.abilities.inside and leaf != self.served
        apart, ours = here or self.abilities.streams, here or self.abilities.in_memory
        if sketch.adapter is not None:
            how = "its low-rank part is added to its own rows" if ours else "it is merged into weights of its own"
            yield Part(f"adapter of {sketch.label}", "exact", how)
        if sketch.view is not None:
            yield self._view(leaf, sketch, apart)
        if sketch.control:
            yield _control(sketch, apart)
        for vector, _ in sketch.vectors.parts:
            yield _vector(f"vector {vector} on {sketch.label}", vector, ours, leaf == self.leaves[0])

    def _weights(self, leaf: Leaf, sketch: Sketch) -> Part:
        what = f"LM {sketch.name}"
        if leaf.partial and (self.abilities.in_memory or not (self.abilities.inside or leaf == self.served)):
            return Part(what, "exact", _OWN_ENDPOINT)
        if not self.abilities.inside:
            served = leaf == self.served
            return Part(what, "exact", "the endpoint serves it" if served else _HERE)
        if self.abilities.in_memory:
            return Part(what, "exact", "it runs from memory, in one batch with those that share its weights")
        if isinstance(leaf, LM | Sketch) and not leaf.partial:
            return Part(what, "exact", "it is one of the models that the engine steps together")
        return Part(what, "impossible", "it has no weights, which the engine would read from disk", _LOCAL)

    def _view(self, leaf: Leaf, sketch: Sketch, apart: bool) -> Part:
        what = f"prompt view of {sketch.label}"
        if apart:
            return Part(what, "exact", "it is put around the prompt in its own stream")
        if leaf == self.served or all(_sketch(each).view == sketch.view for each in self.leaves):
            return Part(what, "exact", "it is sent as part of the prompt")
        return Part(what, "impossible", _SAME_TOKENS, _ABSORB)

    def _node(self, node: Product | Mixture | Cut) -> Part:
        """Say how policies are combined."""
        what, known = f"{_KINDS[type(node)]} {node}", self.abilities.known
        if not (self.abilities.distributions or isinstance(node, Product)):
            reason = "the engine adds weighted logits, and this takes the distribution of each part"
            return Part(what, "impossible", reason, f"write a product without it, or {_LOCAL}")
        if node not in self.asking:
            return Part(what, "exact", "it is computed from all that it depends on")
        if self._biased(node):
            return self._bias(what, node)
        if known == 0:
            reason = "the endpoint gives text, and no log-probabilities that could be combined"
            way_out = f"let {self.served} be the policy, and the rest the value of a search"
            return Part(what, "chunk search only", reason, way_out)
        reason = f"the endpoint gives its {known} likeliest tokens, and all others count as impossible"
        return Part(what, "approximate on the top k", reason, f"write top_k({self.served}, {known}), which is exact")

    def _biased(self, node: Product | Mixture | Cut) -> bool:
        """Return whether a bias can stand for it: the whole is the base times what runs here."""
        if not (self.abilities.biases and node == self.policy and isinstance(node, Product)):
            return False
        others = [policy for policy, _ in node.factors if policy != self.served]
        plain = any(policy == self.served and exponent == Exponent.of(1.0) for policy, exponent in node.factors)
        return plain and self.served not in every_leaf(others)

    def _bias(self, what: str, node: Product | Mixture | Cut) -> Part:
        """Say how good a bias is in its place."""
        count = self.abilities.biases
        if node.vocabulary.size <= count:
            return Part(what, "exact", "the endpoint samples under a bias on every token")
        reason = f"the endpoint samples under a bias on {count} tokens, and all others are taken to be steered alike"
        way_out = "take an endpoint with log-probabilities, or let the base be the policy and the rest a search's value"
        return Part(what, "approximate by bias", reason, way_out)


_KINDS: dict[type[Policy], str] = {Product: "product", Mixture: "mixture", Cut: "cut"}


def _sketch(policy: Policy) -> Sketch:
    """Return what is known of a leaf."""
    if isinstance(policy, Sketch):
        return policy
    if not isinstance(policy, LM):
        return Sketch(policy, label=str(policy), endpoint=isinstance(policy, Leaf) and policy.partial)
    view = policy.view
    around = (view.prefix, view.suffix) if view.prefix or view.suffix else None
    control = view.control is not None
    return Sketch(policy.trunk.identity, policy.adapter, around, control, policy.vectors, policy.label)


def _nodes(policy: Policy) -> list[Product | Mixture | Cut]:
    """Return what is made of other policies, each once, the outermost first."""
    if not isinstance(policy, Product | Mixture | Cut):
        return []
    return list(dict.fromkeys([policy, *(node for inner in _inner(policy) for node in _nodes(inner))]))


def _inner(node: Product | Mixture | Cut) -> tuple[Policy, ...]:
    """Return what it is made of."""
    if isinstance(node, Product):
        return tuple(policy for policy, _ in node.factors)
    if isinstance(node, Mixture):
        return tuple(policy for _, policy in node.parts)
    return node.both


def _asking(policy: Policy, leaf: Leaf, known: int) -> list[Product | Mixture | Cut]:
    """Return what depends on more of a leaf than its ``known`` likeliest tokens, which a top-k cut by it does not."""
    if not isinstance(policy, Product | Mixture | Cut):
        return []
    if isinstance(policy, Cut) and isinstance(policy.rule, Top) and policy.rule.k <= known and policy.both[-1] == leaf:
        return []
    inner = _inner(policy)
    below = [node for each in inner for node in _asking(each, leaf, known)]
    return [policy, *below] if below or leaf in inner else []


def _control(sketch: Sketch, apart: bool) -> Part:
    what = f"control token of {sketch.label}"
    if apart:
        return Part(what, "exact", "its own stream begins with it")
    return Part(what, "impossible", _SAME_TOKENS, _ABSORB)


def _vector(what: str, vector: Vector, ours: bool, first: bool) -> Part:
    if ours:
        beside = "it is added beside the weights, each row with its own strength"
        return Part(what, "exact", "its plain differences may be merged into a copy" if vector.dense else beside)
    way_out = "write the sum as a model with `trimtab vector apply`"
    if vector.dense:
        return Part(what, "impossible", "it has plain differences, which a LoRA cannot hold", way_out)
    if not first:
        return Part(what, "impossible", "the LoRA of a request is added to the first LM alone", way_out)
    return Part(what, "exact", "the sum of a request's vectors is one LoRA, stacked when it is first asked for")


def explain_shape(what: str, shape: Shape | Candidates, abilities: Abilities) -> Part:
    """Say how an engine searches.

    Args:
        what: what the part is called.
        shape: of the search.
        abilities: of the engine.

    Example:
        >>> from trimtab.decoding.shape import best_of_n
        >>> from trimtab.engines.abilities import REMOTE_TEXT
        >>> explain_shape("search", best_of_n(4), REMOTE_TEXT).verdict
        'exact'
    """
    if abilities.every_token:
        return Part(what, "exact", "its rows run in the pool")
    if isinstance(shape, Candidates):
        reason = "tokens are chosen among the likeliest of every step, and the engine gives finished chunks"
        return Part(what, "chunk search only", reason, "take a method that chooses among chunks, such as chunk_beam")
    if isinstance(shape.boundary, Uncertain):
        reason = "chunks end by the entropy of every step, and the engine gives finished chunks"
        return Part(what, "impossible", reason, "end chunks at a number of tokens, a line or a sentence")
    if shape.likelihood and abilities.known == 0:
        reason = "scores take the log-probability of an answer, which the endpoint does not give"
        return Part(what, "impossible", reason, "set likelihood to 0")
    if isinstance(shape.boundary, Texts) and not abilities.stops:
        return Part(what, "exact", "chunks are sampled as long as they may be, and cut here at the texts that end them")
    return Part(what, "exact", "chunks are sampled as answers to the prompt and what was kept")


def _keywords(abilities: Abilities) -> Part:
    if abilities.keywords:
        return Part("keywords", "exact", "tokens are masked at every step")
    reason = "the engine cannot mask tokens by what an answer holds so far"
    return Part("keywords", "impossible", reason, f"{_LOCAL}, or search with a reward for them")
