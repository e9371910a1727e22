"""What is known of an LM before its weights are read: where they are, its adapter, its view, its vectors.

A sketch stands in a policy where the LM will be, so that a policy file can be looked at without loading a model.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import torch

from trimtab.errors import UsageError
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.guide_folder import CONTROL_FILE, DELTAS_FILE, base_of
from trimtab.policies.knob import Knob, declared_knobs
from trimtab.policies.vector import Combination, Linear, Origin, Vector
from trimtab.policies.vocabulary import Vocabulary

_UNREAD = Vocabulary(sys.maxsize, "not read")


@dataclass(frozen=True)
class Sketch(Leaf):
    """The place of an LM in a policy; equal where the LMs will be, whatever their names.

    Args:
        source: what its base weights are known by.
        adapter: what its adapter is known by, or None.
        view: what it sees around the prompt, or None.
        control: whether it starts from a learned control token.
        vectors: what is added to its weights.
        label: what messages call it.
        endpoint: whether it stands for the likeliest tokens that an endpoint tells of its model.
    """

    source: Hashable
    adapter: str | None = None
    view: Hashable | None = None
    control: bool = False
    vectors: Combination = field(default_factory=Combination)
    label: str = field(default="lm", compare=False)
    endpoint: bool = False

    @staticmethod
    def read(source: str, *, system: str | None = None, prompt: str | None = None, label: str | None = None) -> Sketch:
        """Look at the files that ``LM.load`` would load.

        Args:
            source: built-in name, path of a folder, or hub id; what is no folder is taken for a whole model.
            system: a system prompt.
            prompt: a text before every prompt.
            label: what messages call it; the last part of the source by default.

        Raises:
            ModelError: the folder holds an adapter that does not say what its base is.

        Example:
            >>> Sketch.read("smollm2-135m", system="Be polite.", label="polite").reference == Sketch("smollm2-135m")
            True
        """
        tuned = os.path.isfile(os.path.join(source, "adapter_config.json"))
        return Sketch(
            _place(base_of(Path(source)) if tuned else source),
            _place(source) if tuned else None,
            None if system is None and prompt is None else (system, prompt),
            os.path.isfile(os.path.join(source, CONTROL_FILE)),
            label=label or os.path.basename(source),
        )

    def __add__(self, other: Linear) -> Sketch:
        """Add vectors.

        Raises:
            UsageError: its weights are elsewhere.
        """
        if self.endpoint and isinstance(other, Linear):
            super().__add__(other)  # which refuses all but nothing
            return self
        return replace(self, vectors=self.vectors + other) if isinstance(other, Linear) else NotImplemented

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs in the coefficients of its vectors."""
        return declared_knobs(knob for _, coefficient in self.vectors.parts for knob in coefficient.knobs)

    @property
    def vocabulary(self) -> Vocabulary:
        """Tokens that nobody has read; all sketches share them."""
        return _UNREAD

    @property
    def reference(self) -> Policy:
        """The untouched base: the same weights without adapter, view or vectors."""
        return Sketch(self.source, label=self.label, endpoint=self.endpoint)

    @property
    def partial(self) -> bool:
        """Whether it stands for the likeliest tokens alone."""
        return self.endpoint

    @property
    def host(self) -> NoReturn:
        """It has none.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            given=f"{self.name}, whose weights were not read", expected="an LM", hint="file.build(tt.LM.load)"
        )

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.vectors.added_to(self.label)

    @property
    def context_length(self) -> int | None:
        """Not known."""
        return None


def sketch_vector(folder: str, label: str) -> Vector:
    """Stand for the vector of a folder; of its tensors it knows only whether there are plain differences."""
    place = _place(folder)
    dense = {DELTAS_FILE: torch.empty(0)} if os.path.isfile(os.path.join(folder, DELTAS_FILE)) else {}
    return Vector({}, dense, Origin(place, place), label)


def _place(source: str) -> str:
    """Return one name for one folder."""
    return os.path.realpath(source) if os.path.isdir(source) else source
