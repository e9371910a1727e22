"""Prompt views: what a policy sees in place of the prompt.

A view puts token ids before and after the prompt in one policy's stream only. The prompt and everything generated stay
the same for all policies, so views multiply like any other policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab.policies.trunk import Trunk


@dataclass(frozen=True)
class View:
    """Token ids around the prompt, and optionally a control token in front of everything.

    Args:
        prefix: ids before the prompt.
        suffix: ids after the prompt.
        control: index of the adapter's learned control embedding to start with, or None.
        begin: the begin-of-text id, which is not repeated in the middle.
    """

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    control: int | None = None
    begin: int | None = None

    @property
    def extra(self) -> int:
        """How many tokens of context the view takes."""
        return len(self.prefix) + len(self.suffix) + (self.control is not None)

    def apply(self, prompt: Sequence[int], trunk: Trunk) -> list[int]:
        """Return the stream that stands for the prompt."""
        body = list(prompt)
        if self.prefix and self.begin is not None and body[0] == self.begin:
            body = body[1:]
        control = [] if self.control is None else [trunk.control_start + self.control]
        return [*control, *self.prefix, *body, *self.suffix]
