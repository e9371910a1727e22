"""Policy files: models, knobs, an expression and decoding settings in one YAML file.

    models:
      base: smollm2-135m            # or {endpoint: "http://localhost:8000/v1", model: org/name, tokenizer: org/name}
      guide: runs/positive/guide
    vectors:
      medical: vectors/medical
    knobs:
      strength: {default: 1.0, min: 0.0, max: 3.0}
      care: {default: 0.7, min: -1.0, max: 2.0}
    policy: (base + care * medical) * guide^strength
    decoding: {temperature: 0.7, top_p: 0.95, max_new_tokens: 64}
    search: {method: chunk_beam, value: guide / base, beams: 4, branches: 4, chunk: 5}

Reading checks everything that can be checked without a model; building loads the models through a loader it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from trimtab.errors import ConfigError, TrimtabError
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.expression import names, parse
from trimtab.policies.knob import Knob
from trimtab.policies.model_source import TAGS, AnySource, EndpointSource, ModelSource, Section, resolved
from trimtab.policies.search_settings import SearchSettings, check_pair
from trimtab.policies.sketch import sketch_vector
from trimtab.policies.toy import Table
from trimtab.policies.vector import Combination
from trimtab.policies.vector_folder import load_vector

if TYPE_CHECKING:
    from trimtab.policies.lm import LM

Connect = Callable[[EndpointSource], Leaf]
"""Turns an endpoint into a policy; it is given, since this room knows no networks."""

MAX_BYTES = 100_000
"""Largest policy file."""


def _identifier(name: str) -> str:
    if not name.isidentifier():
        raise ValueError("a name of letters, digits and _, no digit first")
    return name


Name = Annotated[str, AfterValidator(_identifier)]


class KnobRange(Section):
    """A knob's default and range; a missing end of the range is open."""

    default: float = 1.0
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _in_range(self) -> KnobRange:
        if (self.min is not None and self.default < self.min) or (self.max is not None and self.default > self.max):
            raise ValueError("a default from min to max")
        return self


class Decoding(Section):
    """How answers are sampled: the settings of ``Policy.generate``, with its defaults."""

    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=64, ge=1)
    min_new_tokens: int = Field(default=0, ge=0)
    stop: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _lengths(self) -> Decoding:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError("min_new_tokens of at most max_new_tokens")
        return self


class PolicyFile(Section):
    """The content of a policy file.

    Args:
        models: name in the expression to source.
        vectors: name in the expression to folder.
        knobs: name in the expression to default and range.
        policy: the expression.
        decoding: how answers are sampled.
        search: how they are searched for; without it they are sampled alone.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> file = PolicyFile.model_validate({"models": {"a": "first", "b": "second"}, "policy": "a * b^2"})
        >>> str(file.build(lambda source: Table.random(3, seed=len(source), name=source)))
        'first * second^2'
    """

    models: dict[Name, AnySource] = Field(min_length=1)
    vectors: dict[Name, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    knobs: dict[Name, KnobRange] = Field(default_factory=dict)
    policy: str
    decoding: Decoding = Field(default_factory=Decoding)
    search: SearchSettings | None = None

    def build(self, load: Callable[[str], LM], connect: Connect | None = None) -> Policy:
        """Load the models that the expression mentions, each source once, and combine them.

        Args:
            load: turns a source into an LM, such as ``LM.load``.
            connect: turns an endpoint into a policy, such as ``tt.engines.remote.connect``; None refuses endpoints.

        Raises:
            ConfigError: a model is behind an endpoint and there is no ``connect``, or its key is not there.
            EndpointError: an endpoint cannot be used.
            ExpressionError: the expression cannot be read, or mentions what the file does not declare.
            ModelError: a model or a vector cannot be loaded, a model has no chat template for a system prompt, or a
                vector was taken from other weights.
            VocabularyError: the models speak different tokens.
        """
        self._dry_run()
        needed = {name: model for name, model in self.models.items() if name in names(self.policy)}
        once = cache(load)
        models = {name: _leaf(name, model, once, connect) for name, model in needed.items()}
        vectors = {
            name: load_vector(folder, label=name) for name, folder in self.vectors.items() if name in names(self.policy)
        }
        return parse(self.policy, models, self.declared_knobs(), vectors)

    def sketch(self) -> Policy:
        """Return the policy with a sketch in the place of each model: all that can be known of it without weights.

        Raises:
            ExpressionError: the expression cannot be read, or mentions what the file does not declare.
            ModelError: a folder holds an adapter that does not say what its base is.

        Example:
            >>> file = PolicyFile.model_validate({"models": {"a": "first", "b": "second"}, "policy": "a * b^2"})
            >>> str(file.sketch())
            'a * b^2'
        """
        self._dry_run()
        mentioned = names(self.policy)
        models = {name: model.sketch(name) for name, model in self.models.items() if name in mentioned}
        vectors = {name: sketch_vector(folder, name) for name, folder in self.vectors.items() if name in mentioned}
        return parse(self.policy, models, self.declared_knobs(), vectors)

    def lm(self, name: str, load: Callable[[str], LM], connect: Connect | None = None) -> Leaf:
        """Load one of the models with its view, equal to the leaf that the policy has of it, or any other source.

        Args:
            name: in the file, or a source.
            load: as in :meth:`build`.
            connect: as in :meth:`build`.

        Raises:
            ModelError: it cannot be loaded, or has no chat template for a system prompt.
            ConfigError: it is behind an endpoint and there is no ``connect``, or its key is not there.
            EndpointError: its endpoint cannot be used.
        """
        model = self.models.get(name)
        return load(name) if model is None else _leaf(name, model, load, connect)

    def declared_knobs(self) -> dict[str, Knob]:
        """Return the knobs that expressions over its models may name."""
        return {
            name: Knob(
                name,
                knob.default,
                min=-math.inf if knob.min is None else knob.min,
                max=math.inf if knob.max is None else knob.max,
            )
            for name, knob in self.knobs.items()
        }

    def _dry_run(self) -> None:
        """Find the mistakes in the expression that need no model, with a table in the place of each."""
        models = {name: Table.of({"": {"a": 1.0}}, name=name) for name in self.models}
        parse(self.policy, models, self.declared_knobs(), dict.fromkeys(self.vectors, Combination()))

    def _check_value(self) -> None:
        """Find a pair of which one is no model."""
        if self.search is not None:
            check_pair(self.search.value, self.models, "add {} to models")


_SECTIONS: dict[str, type[BaseModel]] = {
    "knobs": KnobRange,
    "decoding": Decoding,
    "search": SearchSettings,
}


def read_policy_file(path: str | Path) -> PolicyFile:
    """Read a policy file and check all that needs no model.

    Sources, vectors, and the value of a search, that exist as paths relative to the file become absolute paths; all
    others are left as they are.

    Args:
        path: the YAML file.

    Raises:
        ConfigError: the file is missing, no YAML, or has a wrong or unknown field; the message has the line.
        ExpressionError: its expression cannot be read, or mentions what it does not declare.
    """
    path = Path(path)
    tree, content = _load(path, _text(path))
    try:
        file = PolicyFile.model_validate(content)
    except ValidationError as error:
        _raise_first(path, tree, error)
    for check, field in ((file._dry_run, ("policy",)), (file._check_value, ("search", "value"))):
        try:
            check()
        except TrimtabError as error:
            place = f"{path}, line {_line(tree, field)}"
            raise type(error)(given=f"in {place}: {error.given}", expected=error.expected, hint=error.hint) from None
    models = {name: model.beside(path.parent) for name, model in file.models.items()}
    vectors = {name: resolved(folder, path.parent) for name, folder in file.vectors.items()}
    search = file.search
    if search is not None and search.value not in models:
        search = search.model_copy(update={"value": resolved(search.value, path.parent)})
    return file.model_copy(update={"models": models, "vectors": vectors, "search": search})


def write_policy_file(path: str | Path, file: PolicyFile) -> None:
    """Write a policy file that reads back as the same; settings that equal their defaults are left out.

    Raises:
        ConfigError: the path cannot be written to.
    """
    content = file.model_dump(mode="json", exclude_defaults=True)
    for name, model in file.models.items():
        if isinstance(model, ModelSource) and model.system is None and model.prompt is None:
            content["models"][name] = model.source
    for name, knob in file.knobs.items():
        content["knobs"][name] = {"default": knob.default, **content["knobs"][name]}
    try:
        Path(path).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            given=f"{path}, which cannot be written ({error.strerror})",
            expected="a path in a folder that exists and may be written to",
            hint="check the folder",
        ) from error


def _leaf(name: str, model: AnySource, load: Callable[[str], LM], connect: Connect | None) -> Leaf:
    """Load a model with its system prompt or prefix, or connect to its endpoint."""
    if isinstance(model, ModelSource):
        lm = load(model.source)
        if model.system is not None:
            return lm.with_system(model.system)
        return lm if model.prompt is None else lm.with_prompt(model.prompt)
    if connect is None:
        raise ConfigError(
            given=f"the model {name!r}, which is behind the endpoint {model.endpoint}",
            expected="models whose weights can be read here",
            hint="pass connect=tt.engines.remote.connect to build; `trimtab generate` and `trimtab eval` do",
        )
    return connect(model)


def _text(path: Path) -> str:
    """Read the file's text."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                given=f"{path}, which has over {MAX_BYTES} bytes", expected="a policy file", hint="check the path"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            given=f"{path}, which cannot be read ({reason})", expected="a policy file in YAML", hint="check the path"
        ) from error


def _load(path: Path, text: str) -> tuple[yaml.MappingNode, Any]:
    """Parse YAML into nodes, which know their lines, and plain values."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(
            given=f"{path}, line {line}: {error.problem}", expected="YAML", hint="check quotes, colons and indentation"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            given=f"{path}, which is no YAML that can be read ({type(error).__name__})",
            expected="a policy file in YAML",
            hint="remove unprintable characters, impossible dates and needless brackets",
        ) from error
    if not isinstance(tree, yaml.MappingNode):
        raise ConfigError(
            given=f"{path}, which has no fields",
            expected="models: and policy: at least",
            hint="start from {models: {base: smollm2-135m}, policy: base}",
        )
    _refuse_repeats(path, tree)
    return tree, content


def _refuse_repeats(path: Path, tree: yaml.MappingNode) -> None:
    """YAML lets a key be repeated and drops all but the last; here that is a mistake."""
    for section in (tree, *(value for _, value in tree.value if isinstance(value, yaml.MappingNode))):
        keys = [key.value for key, _ in section.value]
        for place, (key, _) in enumerate(section.value):
            if key.value in keys[:place]:
                raise ConfigError(
                    given=f"{path}, line {key.start_mark.line + 1}: {key.value!r} a second time",
                    expected="each name once",
                    hint="remove one of the two",
                )


def _line(node: yaml.Node, location: tuple[int | str, ...]) -> int:
    """Return the line of a field, or of the innermost part of it that is there."""
    line: int = node.start_mark.line + 1
    for step in location:
        children: Mapping[object, tuple[yaml.Node, yaml.Node]] = (
            {key.value: (key, value) for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
        )
        if step not in children:
            return line
        key, node = children[step]
        line = key.start_mark.line + 1
    return line


def _raise_first(path: Path, tree: yaml.Node, error: ValidationError) -> NoReturn:
    """Raise one of the mistakes that pydantic found, at its line; unknown fields first, they explain missing ones."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    first = min(found, key=lambda mistake: mistake["type"] != "extra_forbidden")
    tag = next((step for step in first["loc"] if step in TAGS), None)
    location = tuple(step for step in first["loc"] if step not in TAGS)
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    hint = "repair that field"
    if first["type"] == "extra_forbidden":
        section = TAGS[str(tag)] if tag else _SECTIONS[str(location[0])] if len(location) > 1 else PolicyFile
        expected, hint = f"one of the fields {', '.join(section.model_fields)}", "check its spelling"
    elif location[-1] == "[key]":
        hint = "rename it; YAML reads on, off, yes and no as true and false unless they are quoted"
    raise ConfigError(
        given=f"{path}, line {_line(tree, location)}: {'.'.join(map(str, location)) or 'the file'}",
        expected=expected,
        hint=hint,
    ) from error
