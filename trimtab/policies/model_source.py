"""Where the models of a policy file come from: weights that are read here, or an endpoint that has them.

It knows neither: what loads a model or connects to an endpoint is given to the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from trimtab.policies.sketch import Sketch


class Section(BaseModel):
    """A part of a policy file: nothing unknown in it, nothing turned into another type, and never changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ModelSource(Section):
    """Where a model comes from and what it sees; a bare text in the file is the source alone.

    Args:
        source: built-in name, path of a folder, or hub id.
        system: a system prompt in the model's own chat format.
        prompt: a text before every prompt.
    """

    source: str = Field(min_length=1)
    system: str | None = None
    prompt: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"source": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one_view(self) -> ModelSource:
        if self.system is not None and self.prompt is not None:
            raise ValueError("either system or prompt, not both")
        return self

    def sketch(self, label: str) -> Sketch:
        """Return what is known of it without its weights."""
        return Sketch.read(self.source, system=self.system, prompt=self.prompt, label=label)

    def beside(self, folder: Path) -> ModelSource:
        """Make its source absolute if it is a path relative to a folder."""
        return self.model_copy(update={"source": resolved(self.source, folder)})


class EndpointSource(Section):
    """A model behind an OpenAI-compatible endpoint, as a policy over the likeliest tokens that it tells.

    Args:
        endpoint: where its routes begin.
        model: the model's name there.
        tokenizer: of that model: built-in name, path of a folder, or hub id.
        key: name of the environment variable that holds the key; None sends none. The key itself is never in a file.
        k: log-probs a token to ask for; None asks for as many as come back, at most 100.

    Example:
        >>> served = EndpointSource(endpoint="http://localhost:8000/v1", model="org/name", tokenizer="org/name", k=20)
        >>> served.source, served.sketch("base").partial
        ('http://localhost:8000/v1', True)
    """

    endpoint: str = Field(pattern=r"^https?://[^/@?#\s]+[^@?#\s]*$")
    model: str = Field(min_length=1)
    tokenizer: str = Field(min_length=1)
    key: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    k: int | None = Field(default=None, ge=1)

    @property
    def source(self) -> str:
        """Where it comes from: the endpoint's address."""
        return self.endpoint

    def sketch(self, label: str) -> Sketch:
        """Return what is known of it without asking."""
        return Sketch((self.endpoint, self.model, self.k), label=label, endpoint=True)

    def beside(self, folder: Path) -> EndpointSource:
        """Make its tokenizer absolute if it is a path relative to a folder."""
        return self.model_copy(update={"tokenizer": resolved(self.tokenizer, folder)})


TAGS: dict[str, type[Section]] = {"<source>": ModelSource, "<endpoint>": EndpointSource}
"""What validation calls the two kinds; no name in a file is like these."""


def _tag(given: Any) -> str:
    if isinstance(given, dict):
        return "<endpoint>" if "endpoint" in given else "<source>"
    return "<endpoint>" if isinstance(given, EndpointSource) else "<source>"


AnySource = Annotated[
    Annotated[ModelSource, Tag("<source>")] | Annotated[EndpointSource, Tag("<endpoint>")], Discriminator(_tag)
]
"""Either kind; the field ``endpoint`` tells which."""


def resolved(source: str, folder: Path) -> str:
    """Make a source absolute that exists relative to a folder."""
    beside = os.path.join(folder, source)
    # os.path.exists, since Path.exists raises where a hub id or a text makes no legal path
    return os.path.abspath(beside) if os.path.exists(beside) else source
