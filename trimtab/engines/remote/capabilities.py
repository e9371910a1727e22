"""What one model can do behind one endpoint, each with the answer that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

TokenForm = Literal["id", "text"]


@dataclass(frozen=True)
class Capabilities:
    """What an endpoint can do with a model; :func:`probe` finds it out.

    Args:
        model: the model's name.
        models: whether it lists its models.
        completions: whether it continues a text.
        chat: whether it answers a chat.
        top_k: log-probs a token that completions really return; 0 for none. The probe looks no further than 100.
        chat_top_k: the same of chats.
        token_form: whether tokens of log-probs come as "id" (``token_id:N``) or as "text".
        token_prompts: whether a prompt may be token ids, and means the same as its text.
        logit_bias: tokens that a bias may name, of which it obeys one; 0 where it obeys none. The probe looks no
            further than 1024.
        n: whether it gives several answers a request.
        seed: whether a seed repeats an answer.
        echo: whether it gives log-probs of the prompt.
        context_length: longest sequence in tokens, where it says.
        evidence: for each of these, what was seen.

    Example:
        >>> said = {"echo": "status 400", "n": "2 choices"}
        >>> can = Capabilities("gpt", True, True, False, 5, 0, "text", False, 300, True, False, False, None, said)
        >>> print(can)
        model           gpt
        models          yes
        completions     yes
        chat            no
        top_k           5
        chat_top_k      0
        token_form      text
        token_prompts   no
        logit_bias      300
        n               yes  2 choices
        seed            no
        echo            no   status 400
        context_length  unknown
    """

    model: str
    models: bool
    completions: bool
    chat: bool
    top_k: int
    chat_top_k: int
    token_form: TokenForm
    token_prompts: bool
    logit_bias: int
    n: bool
    seed: bool
    echo: bool
    context_length: int | None
    evidence: Mapping[str, str] = field(compare=False, repr=False)

    def __str__(self) -> str:
        shown = {each.name: _shown(getattr(self, each.name)) for each in fields(self)[:-1]}
        return "\n".join(f"{name:<16}{text:<5}{self.evidence.get(name, '')}".rstrip() for name, text in shown.items())


def _shown(value: str | int | bool | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)
