"""Prompt views: what a policy sees in place of the prompt.

A view puts token ids before and after the prompt in one policy's stream only. The prompt and everything generated stay
the same for all policies, so views multiply like any other policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.policies.chat import Turn, chat_text
from trimtab.policies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from trimtab.policies.trunk import Trunk


class Begun(tuple[int, ...]):
    """The token ids of a prompt and of the beginning of its answer, for leaves that see something behind the prompt.

    Args:
        tokens: of both.
        answer: how many of them, at the end, are the answer's.

    Example:
        >>> View(suffix=(9,)).around(Begun((1, 2, 3), answer=1))
        [1, 2, 9, 3]
    """

    answer: int

    def __new__(cls, tokens: Iterable[int], answer: int = 0) -> Begun:
        """Join both."""
        begun = super().__new__(cls, tokens)
        begun.answer = answer
        return begun


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

    def around(self, prompt: Sequence[int]) -> list[int]:
        """Return the prompt between prefix and suffix, without the control token."""
        body, answer = list(prompt), []
        if isinstance(prompt, Begun):
            split = len(prompt) - prompt.answer
            body, answer = body[:split], body[split:]
        if self.prefix and self.begin is not None and body[0] == self.begin:
            body = body[1:]
        return [*self.prefix, *body, *self.suffix, *answer]

    def apply(self, prompt: Sequence[int], trunk: Trunk) -> list[int]:
        """Return the stream that stands for the prompt."""
        control = [] if self.control is None else [trunk.control_start + self.control]
        return [*control, *self.around(prompt)]


def prompt_view(vocabulary: Vocabulary, text: str) -> View:
    """Return the view that puts a text before every prompt."""
    return View(tuple(vocabulary.encode(text)), begin=_begin(vocabulary))


def system_view(vocabulary: Vocabulary, text: str) -> View:
    """Return the view in which the prompt is a user's turn after a system prompt, in the model's own chat format.

    Raises:
        ModelError: the tokenizer has no chat template.
    """
    seam = "\N{OBJECT REPLACEMENT CHARACTER}"
    shown = chat_text(vocabulary, [Turn("system", text), Turn("user", seam)])
    encode = vocabulary.tokenizer.backend_tokenizer.encode
    prefix, suffix = (tuple(encode(part, add_special_tokens=False).ids) for part in shown.split(seam))
    return View(prefix, suffix, begin=_begin(vocabulary))


def _begin(vocabulary: Vocabulary) -> int | None:
    """Return the token that begins every text, if there is one."""
    begin: int | None = None if vocabulary.tokenizer is None else vocabulary.tokenizer.bos_token_id
    return begin
