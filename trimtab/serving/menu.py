"""What a server has: the operator's models, vectors and knobs, and the policies that clients may make of them."""

from __future__ import annotations

import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

from trimtab.assets.store import Progress, silent
from trimtab.decoding.search_plan import build_plan
from trimtab.engines.base import AS_REFERENCE
from trimtab.errors import ConfigError, KnobError
from trimtab.policies.advance import every_leaf
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.contributions import parts
from trimtab.policies.expression import parse
from trimtab.policies.knob import bind
from trimtab.policies.lm import LM
from trimtab.policies.model_source import AnySource, ModelSource
from trimtab.policies.policy_file import PolicyFile
from trimtab.policies.search_settings import SearchSettings, check_pair, pair_in
from trimtab.policies.vector import Linear
from trimtab.policies.vocabulary import Vocabulary
from trimtab.serving.limits import Limits
from trimtab.serving.refusals import NotFoundError
from trimtab.values.value import Value

REFERENCE = "reference"
"""What clients call the untouched base."""

_KNOB = re.compile(r"([A-Za-z_]\w*)=([-+0-9.eE]+)")


@dataclass(frozen=True)
class Order:
    """What one request is answered by.

    Args:
        policy: the policy.
        knobs: values that differ from the defaults.
        told: what an engine of the policy file is told instead of knobs, where it has no other policies.
    """

    policy: Policy
    knobs: Mapping[str, float]
    told: Mapping[str, float]


@dataclass
class Menu:
    """Everything that requests can name.

    Args:
        name: of the policy, as clients call it.
        file: the policy file.
        policy: what it says; sketched where an engine elsewhere has the weights.
        models: name to model; none where an engine elsewhere has the weights.
        vectors: name to vector.
        limits: on what clients may make of them.
        vocabulary: the tokens that everything speaks.
        context_length: tokens that prompt and answer may have together; None for no bound.
        value: what searches score by, where the file names one.
        reward: name of the reward that is loaded, if any.
    """

    name: str
    file: PolicyFile
    policy: Policy
    models: Mapping[str, Leaf]
    vectors: Mapping[str, Linear]
    limits: Limits
    vocabulary: Vocabulary
    context_length: int | None
    value: Value | None = None
    reward: str | None = None
    _parsed: OrderedDict[str, Policy] = field(default_factory=OrderedDict, repr=False)
    _turn: Lock = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._:/-]{1,80}", self.name) or self.name == REFERENCE:
            raise ConfigError(
                given=f"the policy's name {self.name!r}",
                expected=f"up to 80 letters, digits and . _ : / -, and another one than {REFERENCE!r}",
                hint="pass --name",
            )

    @staticmethod
    def load(
        name: str,
        file: PolicyFile,
        load: Callable[[str], Leaf],
        limits: Limits,
        *,
        vectors: Mapping[str, Linear],
        progress: Progress = silent,
    ) -> Menu:
        """Load every model of a file, and what its search scores by.

        Args:
            name: of the policy.
            file: the policy file.
            load: turns a model's name in the file, or any source, into the model.
            limits: on what clients may ask for.
            vectors: name to vector.
            progress: told what is going on.

        Raises:
            ConfigError: a name is one that clients could not use.
            ModelError: a model cannot be loaded.
            VocabularyError: models speak different tokens.
        """
        models = {each: _named(load(each), each) for each in file.models}
        for each, model in models.items():
            progress(f"loaded {each}: {model}")
        knobs = file.declared_knobs()
        policy = parse(file.policy, models, knobs, vectors)
        value = None if file.search is None else build_plan(file.search, load, progress=progress).value
        lengths = [leaf.context_length for leaf in every_leaf([policy, policy.reference])]
        longest = min((length for length in lengths if length is not None), default=None)
        return Menu(name, file, policy, models, vectors, limits, policy.vocabulary, longest, value)

    @property
    def names(self) -> tuple[str, str]:
        """The models that ``/v1/models`` lists."""
        return (self.name, REFERENCE)

    @cached_property
    def fingerprint(self) -> str:
        """A short name of what is served, which changes when it does."""
        return "tt_" + hashlib.sha256(f"{self.file!r} {self.vocabulary.fingerprint}".encode()).hexdigest()[:12]

    @property
    def chats(self) -> bool:
        """Whether the models have a chat format."""
        tokenizer = self.vocabulary.tokenizer
        return tokenizer is not None and bool(tokenizer.chat_template)

    def order(self, model: str, knobs: Mapping[str, float], expression: str | None) -> Order:
        """Return what answers a request.

        Args:
            model: a name, or an alias such as ``policy@strength=1.5,care=0``.
            knobs: values that the request gives; those of an alias count where it gives none.
            expression: a policy of the client's own, over names that the operator has loaded.

        Raises:
            NotFoundError: there is no such model.
            KnobError: there is no such knob, or a value is out of its range.
            ExpressionError: the expression cannot be read, or names what is not there.
            ConfigError: it is too long, or runs more models than are allowed.
        """
        name, aliased = read_alias(model)
        if name not in self.names:
            raise NotFoundError(
                given=f"the model {model[:100]!r}",
                expected=f"one of {', '.join(self.names)}, or one with knobs as in {self.name}@strength=1.5",
                hint="GET /v1/models lists them",
            )
        values = {**aliased, **knobs}
        if name == REFERENCE:
            bind(self.policy.knobs, [values])  # they do nothing, and have to be there
            if expression is not None:
                raise ConfigError(
                    given=f"a policy for the model {REFERENCE}", expected=f"the model {self.name}", hint="change model"
                )
            return Order(self.policy.reference, {}, AS_REFERENCE)
        policy = self.policy if expression is None else self.parsed(expression)
        bind(policy.knobs, [values])
        return Order(policy, values, values)

    def parsed(self, expression: str) -> Policy:
        """Return the policy that a client has written; :meth:`order` says what is refused."""
        if not self.models:
            raise ConfigError(
                given="a policy in the request, on an engine that runs the operator's alone",
                expected="knobs",
                hint="leave policy out",
            )
        if len(expression) > self.limits.expression:
            raise ConfigError(
                given=f"a policy of {len(expression)} characters",
                expected=f"at most {self.limits.expression}",
                hint="write it shorter",
            )
        with self._turn:  # requests are checked in several threads
            if expression not in self._parsed:
                self._parsed[expression] = self._read(expression)
            self._parsed.move_to_end(expression)
            if len(self._parsed) > self.limits.policies:
                self._parsed.popitem(last=False)
            return self._parsed[expression]

    def _read(self, expression: str) -> Policy:
        policy, base = parse(expression, self.models, self.file.declared_knobs(), self.vectors), self.policy.reference
        if policy.reference != base:  # times 1 in terms of the operator's base, which is what KL is measured from
            policy = base * policy / base
        leaves = every_leaf([policy, policy.reference])
        if len(leaves) > self.limits.leaves:
            raise ConfigError(
                given=f"a policy that runs {len(leaves)} models",
                expected=f"at most {self.limits.leaves}; each mix of vectors counts as one",
                hint="use fewer",
            )
        return policy

    def scorer(self, value: str | None) -> Value:
        """Return what a search scores by.

        Args:
            value: ``tuned / untuned``, two of the operator's models; None is the policy file's own.

        Raises:
            ConfigError: it is something else, or the file has none.
        """
        if value is None or (self.file.search is not None and value == self.file.search.value):
            if self.value is None:
                raise ConfigError(
                    given="a search without a value",
                    expected="tuned / untuned, two of the models, since the policy file has no search of its own",
                    hint=f'add "value": "a / b", of {", ".join(self.models)}',
                )
            return self.value
        from trimtab.values import LogRatio

        pair = pair_in(value[: self.limits.expression])
        if pair is None:
            raise ConfigError(
                given=f"the value {value[:100]!r}",
                expected="tuned / untuned, two of the models; other values are the operator's to load",
                hint="put it into the policy file's search",
            )
        check_pair(value, self.models, f"the models are {', '.join(self.models)}")
        return LogRatio(self.models[pair[0]], self.models[pair[1]])

    def to_dict(self, engine: str, searches: Sequence[str], alternatives: int) -> dict[str, Any]:
        """Return what ``/v1/policies`` says of the policy.

        Args:
            engine: that runs it.
            searches: methods that it can do.
            alternatives: that it can tell at each token.
        """
        file, limits = self.file, self.limits
        order = {name: place for place, name in enumerate(file.knobs)}
        knobs = [
            {"name": knob.name, "default": knob.default, "min": _finite(knob.min), "max": _finite(knob.max)}
            for knob in sorted(self.policy.knobs, key=lambda knob: order[knob.name])
        ]
        return {
            "id": self.name,
            "object": "policy",
            "expression": file.policy,
            "reference": str(self.policy.reference),
            "knobs": knobs,
            "factors": [{"name": str(each), "exponent": str(exponent)} for each, exponent in parts(self.policy)],
            "models": [
                {"name": each, "source": _shown(model.source), "view": _view(model)}
                for each, model in file.models.items()
            ],
            "vectors": [{"name": each, "source": _shown(folder)} for each, folder in file.vectors.items()],
            "chat": self.chats,
            "context_length": self.context_length,
            "engine": engine,
            "decoding": file.decoding.model_dump(mode="json"),
            "search": None if file.search is None else _search(file.search),
            "searches": list(searches) if self.value is not None or len(self.models) > 1 else [],
            "reward": self.reward,
            "limits": {
                "n": limits.n,
                "max_tokens": limits.max_tokens,
                "top_logprobs": alternatives,
                "stop": limits.stop,
                "beams": limits.beams,
                "branches": limits.branches,
                "body_bytes": limits.body_bytes,
            },
        }


def read_alias(model: str) -> tuple[str, dict[str, float]]:
    """Return the name and the knobs of an alias.

    Raises:
        KnobError: what follows the @ are no knobs.

    Example:
        >>> read_alias("kind@strength=1.5,care=-1"), read_alias("kind")
        (('kind', {'strength': 1.5, 'care': -1.0}), ('kind', {}))
    """
    name, at, rest = model[:400].partition("@")
    values: dict[str, float] = {}
    for part in rest.split(",") if at else ():
        found = _KNOB.fullmatch(part)
        try:
            value = float(found.group(2)) if found else math.nan
        except ValueError:
            value = math.nan
        if found is None or not math.isfinite(value) or found.group(1) in values:
            raise KnobError(
                given=f"{part[:60]!r} in the model {model[:100]!r}",
                expected="knobs with finite values, each once, with commas between them",
                hint=f"{name}@strength=1.5",
            )
        values[found.group(1)] = value
    return name, values


def _named(model: Leaf, name: str) -> Leaf:
    """Return a model that is called as the file calls it, which may load several of one source."""
    return replace(model, label=name) if isinstance(model, LM) else model


def _view(model: AnySource) -> str | None:
    """Return which kind of view a model has; what it says is the operator's."""
    if not isinstance(model, ModelSource):
        return None
    return "system" if model.system is not None else "prompt" if model.prompt is not None else None


def _shown(source: str) -> str:
    """Return a source as strangers may see it: of a path on this machine the last part alone."""
    if "://" in source:
        return "an endpoint"
    return Path(source).name if source.startswith(("/", "~", ".")) else source


def _search(settings: SearchSettings) -> dict[str, Any]:
    return {**settings.model_dump(mode="json"), "value": _shown(settings.value)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
