"""Between an endpoint's tokens and a vocabulary's ids, exactly or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from trimtab.engines.remote.capabilities import TokenForm
from trimtab.errors import EndpointError, PromptError, VocabularyError
from trimtab.policies.vocabulary import Vocabulary

_ID = re.compile(r"token_id:(\d+)")


@dataclass(frozen=True)
class Read:
    """Tokens that were read.

    Args:
        ids: of those that are one token of the vocabulary, each id once.
        log_probs: of these, in nats.
        unknown: how many are none of its tokens, or may be several.
        spoken: how many tokens the endpoint may have meant: of tokens that share a text it can name but one.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    unknown: int
    spoken: int


@dataclass(frozen=True)
class Tokens:
    """Reads and writes tokens as one endpoint does.

    Args:
        vocabulary: whose ids they become.
        form: whether the endpoint names tokens by "id" or by "text".

    Example:
        >>> words = Vocabulary.of_pieces(["a", "b"])
        >>> Tokens(words, "text").read([("b", -0.5), ("c", -1.5)])
        Read(ids=(1,), log_probs=(-0.5,), unknown=1, spoken=2)
        >>> Tokens(words, "id").read([("token_id:1", -0.5)]).ids
        (1,)
    """

    vocabulary: Vocabulary
    form: TokenForm

    def read(self, entries: Sequence[tuple[str, float]]) -> Read:
        """Turn an endpoint's tokens into ids; those that are none, or may be several, are counted and left out.

        Raises:
            EndpointError: the tokens have another form than the endpoint's before.
        """
        forms = {form_of(token) for token, _ in entries}
        # A model may have a text that looks like an id; it has no hundred of them.
        if entries and (self.form not in forms or (self.form == "id" and len(forms) > 1)):
            raise EndpointError(
                given=f"tokens such as {entries[0][0]!r}, where the endpoint gave them as {self.form} before",
                expected="one form of tokens",
                hint="its replicas may be of different versions; probe each one alone",
            )
        found: dict[int, float] = {}
        spoken = 0
        for token, log_prob in entries:
            candidates = self._candidates(token)
            spoken += max(len(candidates), 1)
            if len(candidates) == 1:
                found.setdefault(candidates[0], log_prob)
        return Read(tuple(found), tuple(found.values()), len(entries) - len(found), spoken)

    def write(self, ids: Sequence[int]) -> str:
        """Turn the ids of a prefix into the text of a prompt.

        Raises:
            PromptError: the ids end inside a character, so that no text stands for them.
        """
        tokenizer = self.vocabulary.tokenizer
        if tokenizer is None:
            return " ".join(self.vocabulary.pieces[i] for i in ids)
        own = self._begin  # which the endpoint puts there itself
        kept = list(ids[len(own) :]) if tuple(ids[: len(own)]) == own else list(ids)
        text: str = tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            raise PromptError(
                given=f"a prefix that ends inside a character: {text[-20:]!r}",
                expected="whole characters, since this endpoint takes prompts as text only",
                hint="use an endpoint that takes token ids, such as vLLM",
            )
        return text

    def ids(self, tokens: Sequence[str]) -> tuple[int, ...]:
        """Turn the tokens of an answer into ids, where the endpoint names them by id.

        Raises:
            EndpointError: one has another form than the endpoint's tokens before, or is none of the vocabulary's.
        """
        found = [self._candidates(token) for token in tokens]
        for token, candidates in zip(tokens, found, strict=True):
            if self.form != "id" or len(candidates) != 1:
                raise EndpointError(
                    given=f"an answer with the token {token!r}, where the endpoint gave ids of its tokenizer before",
                    expected="one form of tokens, all of them of the tokenizer",
                    hint="its replicas may be of different versions; probe each one alone",
                )
        return tuple(candidates[0] for candidates in found)

    def spell(self, prefix: Sequence[int], text: str) -> tuple[int, ...]:
        """Turn a text that follows a prefix into ids that, after the prefix, are written as that text.

        Raises:
            VocabularyError: the tokenizer cannot write it there.
        """
        vocabulary = self.vocabulary
        ids = tuple(vocabulary.encode_answer(text))
        if vocabulary.tokenizer is None or not text:
            return ids
        whole = self.write(prefix) + text
        if self.write([*prefix, *ids]) == whole:
            return ids
        again = tuple(vocabulary.encode(whole))  # some tokenizers begin every text with a space
        if again[: len(prefix)] == tuple(prefix) and self.write(again) == whole:
            return again[len(prefix) :]
        raise VocabularyError(
            given=f"the text {text[:40]!r} after {self.write(prefix)[-20:]!r}, which the tokenizer writes otherwise",
            expected="a tokenizer that writes every text back as it was",
            hint="use an endpoint that names tokens by id, such as vLLM",
        )

    def _candidates(self, token: str) -> Sequence[int]:
        """Return the ids that a token may be."""
        if self.form == "text":
            return self._by_text.get(token, ())
        match = _ID.fullmatch(token)
        return (int(match[1]),) if match and int(match[1]) < self.vocabulary.size else ()

    @cached_property
    def _by_text(self) -> dict[str, list[int]]:
        by_text: dict[str, list[int]] = {}
        for i, text in enumerate(self.vocabulary.texts()):
            by_text.setdefault(text, []).append(i)
        return by_text

    @cached_property
    def _begin(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer puts before every text."""
        return tuple(self.vocabulary.tokenizer("")["input_ids"])


def form_of(token: str) -> TokenForm:
    """Say in which form a token is."""
    return "id" if _ID.fullmatch(token) else "text"
