"""The policy that a command line asks for: what its text says before a model is loaded, and what is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.cli.options import SUFFIXES
from trimtab.errors import ConfigError, ExpressionError

if TYPE_CHECKING:
    from trimtab.policies.base import Leaf, Policy
    from trimtab.policies.knob import Knob
    from trimtab.policies.lm import LM
    from trimtab.policies.model_source import EndpointSource
    from trimtab.policies.policy_file import Decoding, PolicyFile
    from trimtab.policies.search_settings import SearchSettings


@dataclass(frozen=True)
class Asked:
    """A policy file or an expression, with the models that were named for it.

    Args:
        text: path of a ``.yaml`` file, or an expression.
        models: name to source, given on the command line; on top of a file's own.
        vectors: name to folder, in the same way.
        file: the policy file, where it is one.
        dtype: of the weights.
        device: where they go.
    """

    text: str
    models: Mapping[str, str]
    vectors: Mapping[str, str]
    file: PolicyFile | None
    dtype: str
    device: str

    @staticmethod
    def read(text: str, models: Mapping[str, str], vectors: Mapping[str, str], *, dtype: str, device: str) -> Asked:
        """Read a policy file, or take an expression as it is.

        Raises:
            ExpressionError: the expression in the file cannot be read.
            ConfigError: the policy file is missing or wrong.
        """
        from trimtab.policies.model_source import ModelSource
        from trimtab.policies.policy_file import read_policy_file

        file = None
        if text.endswith(SUFFIXES):
            file = read_policy_file(Path(text))
            given = {name: ModelSource(source=source) for name, source in models.items()}
            file = file.model_copy(update={"models": {**file.models, **given}, "vectors": {**file.vectors, **vectors}})
        return Asked(text, models, vectors, file, dtype, device)

    @property
    def decoding(self) -> Decoding:
        """How the file says that answers are sampled, or the defaults."""
        from trimtab.policies.policy_file import Decoding

        return Decoding() if self.file is None else self.file.decoding

    @property
    def search(self) -> SearchSettings | None:
        """How the file says that they are searched for."""
        return None if self.file is None else self.file.search

    @property
    def sources(self) -> dict[str, str]:
        """Where every model that has a name comes from."""
        named = {} if self.file is None else {name: model.source for name, model in self.file.models.items()}
        return {**named, **self.models}

    def lm(self, name: str) -> Leaf:
        """Load a model by its name, with the view it has in the file, or any other by its source.

        Raises:
            ModelError: it cannot be loaded.
            EndpointError: its endpoint cannot be used.
        """
        from trimtab.policies.lm import LM

        if self.file is not None:
            return self.file.lm(name, self._load, self._connect)
        label = name if name in self.models else None
        return LM.load(self.models.get(name, name), dtype=self.dtype, device=self.device, name=label)

    def policy(self, knobs: Mapping[str, float]) -> Policy:
        """Load the models and combine them.

        Args:
            knobs: values on the command line; an expression's knobs need no declaration.

        Raises:
            ExpressionError: the expression cannot be read, or a model in it was not named.
            ModelError: a model cannot be loaded.
            EndpointError: an endpoint cannot be used.
        """
        from trimtab.policies.expression import names, parse
        from trimtab.policies.vector_folder import load_vector

        if self.file is not None:
            return self.file.build(self._load, self._connect)
        declared, mentioned = self._declared(knobs), names(self.text)
        loaded = {name: self.lm(name) for name in self.models if name in mentioned}
        vectors = {name: load_vector(where, label=name) for name, where in self.vectors.items() if name in mentioned}
        return parse(self.text, loaded, declared, vectors)

    def sketch(self, knobs: Mapping[str, float]) -> Policy:
        """Return the policy with a sketch in the place of each model; :meth:`policy` has the arguments.

        Raises:
            ExpressionError: the expression cannot be read, or a model in it was not named.
        """
        from trimtab.policies.expression import names, parse
        from trimtab.policies.sketch import Sketch, sketch_vector

        if self.file is not None:
            return self.file.sketch()
        declared, mentioned = self._declared(knobs), names(self.text)
        models = {name: Sketch.read(source, label=name) for name, source in self.models.items() if name in mentioned}
        vectors = {name: sketch_vector(where, name) for name, where in self.vectors.items() if name in mentioned}
        return parse(self.text, models, declared, vectors)

    def as_file(self, knobs: Mapping[str, float]) -> PolicyFile:
        """Return the policy file, or one that says what the expression does; :meth:`policy` has the arguments.

        Raises:
            ExpressionError: a model in the expression was not named.
        """
        from trimtab.policies.policy_file import PolicyFile

        if self.file is not None:
            return self.file
        declared = {name: {"default": 1.0} for name in self._declared(knobs)}
        named = {"models": dict(self.models), "vectors": dict(self.vectors), "knobs": declared}
        return PolicyFile.model_validate({**named, "policy": self.text})

    def _declared(self, knobs: Mapping[str, float]) -> dict[str, Knob]:
        """Return the knobs of an expression, in which every name has to be known."""
        from trimtab.policies.expression import names
        from trimtab.policies.knob import Knob

        mentioned = names(self.text)
        missing = [name for name in mentioned if name not in {*self.models, *self.vectors, *knobs}]
        if missing:
            raise ExpressionError(
                given=f"{missing[0]!r} in {self.text!r}, which was not named",
                expected="a model, a vector or a knob for every name in the expression",
                hint=f"add --model {missing[0]}=SOURCE, --vector {missing[0]}=FOLDER or --knob {missing[0]}=VALUE",
            )
        return {name: Knob(name, 1.0) for name in knobs if name in mentioned}

    def _load(self, source: str) -> LM:
        from trimtab.policies.lm import LM

        return LM.load(source, dtype=self.dtype, device=self.device)

    def _connect(self, source: EndpointSource) -> Leaf:
        from trimtab.engines.remote import connect

        return connect(source, device=self.device)


@dataclass(frozen=True)
class Wanted:
    """What a command line wants compared.

    Args:
        asked: the policies.
        searches: how the answers of each are searched for.
        baselines: names of what is compared beside.
        knobs: their values.
    """

    asked: Sequence[Asked]
    searches: Sequence[SearchSettings | None]
    baselines: Sequence[str]
    knobs: Mapping[str, float]


def identity(policy: Policy) -> str:
    """Name a policy by its expression, by the weights and vectors in it, and by what these see around the prompt."""
    from trimtab.policies.advance import every_leaf
    from trimtab.policies.lm import LM
    from trimtab.policies.view import View

    parts = [str(policy)]
    for leaf in every_leaf([policy]):
        if isinstance(leaf, LM):
            parts += [leaf.trunk.identity[:16], str(leaf.adapter), *(vector.digest for vector, _ in leaf.vectors.parts)]
            parts += [] if leaf.view == View() else [str(leaf.view)]
    return " ".join(parts)


def refuse_unknown_knobs(names: Iterable[str], policies: Iterable[Policy]) -> None:
    """Refuse values for knobs that no policy has, which would change nothing.

    Raises:
        ConfigError: there is one.
    """
    known = {knob.name for policy in policies for knob in policy.knobs}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            given=f"a value for the knob {unknown[0]!r}",
            expected=f"one of {', '.join(sorted(known)) or 'no knobs: no policy has any'}",
            hint="check the name, or put the knob into the policy: base * guide^strength",
        )


def common_base(policies: Iterable[Policy]) -> Policy:
    """Return the reference that policies share.

    Raises:
        ConfigError: they have different ones.
    """
    references = {policy.reference for policy in policies}
    if len(references) > 1:
        raise ConfigError(
            given="policies on different bases", expected="one base to compare with", hint="evaluate them one by one"
        )
    return references.pop()
