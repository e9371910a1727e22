"""The local engine: the row pool behind the protocol that all engines share. It has no loop of its own."""

from __future__ import annotations

from trimtab.decoding.answer import Written
from trimtab.decoding.drafters import Draft
from trimtab.decoding.generate import to_answer
from trimtab.decoding.ledger import Owner
from trimtab.decoding.pool import Pool
from trimtab.decoding.request import Bounds, Request, Row, Settings
from trimtab.engines.abilities import Abilities
from trimtab.engines.base import Update, before_stops
from trimtab.policies.base import Policy
from trimtab.policies.speller import Speller
from trimtab.policies.vocabulary import Vocabulary

LOCAL = Abilities(
    "local",
    known=None,
    inside=True,
    streams=True,
    in_memory=True,
    distributions=True,
    keywords=True,
    every_token=True,
)
"""Everything: it is what the others are compared with."""


class LocalEngine:
    """Answers requests in this process.

    Args:
        policy: what answers.
        bounds: how much it takes on.
        metered: whether log-probabilities under the reference and the KL to it are measured.
        draft: who drafts, see :class:`~trimtab.decoding.pool.Pool`.
        draft_tokens: drafts a block; None adapts to what pays.

    Raises:
        ConfigError: there is no such drafter.
        VocabularyError: the drafter speaks other tokens than the policy.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> engine = LocalEngine(Table.of({"": {"heads": 0.75, "tails": 0.25}}))
        >>> ticket = engine.submit(Request((0,)), Settings(max_new_tokens=2, seed=0), stream=True)
        >>> while engine.busy:
        ...     (update,) = engine.step()
        ...     print(len(update.text.split()), update.answer is not None)
        1 False
        2 True
    """

    def __init__(
        self,
        policy: Policy,
        *,
        bounds: Bounds = Bounds(),  # noqa: B008 -- a frozen value
        metered: bool = True,
        draft: Draft = None,
        draft_tokens: int | None = None,
    ) -> None:
        self._vocabulary = policy.vocabulary
        self._pool = Pool(policy, bounds=bounds, metered=metered, draft=draft, draft_tokens=draft_tokens)
        self._open: dict[int, Owner] = {}
        self._streamed: set[int] = set()
        self._spellers: dict[int, Speller] = {}
        self._places = 0

    @property
    def abilities(self) -> Abilities:
        """All of them."""
        return LOCAL

    @property
    def vocabulary(self) -> Vocabulary:
        """The policy's."""
        return self._vocabulary

    @property
    def busy(self) -> bool:
        """Whether rows are running or waiting."""
        return self._pool.busy

    def submit(self, request: Request, settings: Settings, *, stream: bool = False) -> int:
        """Take a request on; :meth:`Pool.submit` says what is refused."""
        ticket = self._pool.submit(request, settings)
        for answer in range(request.n):
            self._open[self._places] = Owner(ticket, request, settings, self._places, answer)
            self._places += 1
        if stream:
            self._streamed.add(ticket)
        return ticket

    def cancel(self, ticket: int) -> None:
        """Let a request's answers go."""
        self._pool.cancel(ticket)

    def step(self) -> list[Update]:
        """Pick and feed the next token of every row."""
        updates = [self._close(row) for row in self._pool.step()]
        self._streamed &= {owner.ticket for owner in self._open.values()}
        return updates + [self._tell(owner, written) for owner, written in self._pool.so_far(self._streamed)]

    def _tell(self, owner: Owner, written: Written) -> Update:
        """Tell what a running row has written."""
        speller = self._spellers.setdefault(owner.place, Speller(self._vocabulary))
        pieces = speller.of(written.token_ids)
        text = before_stops(speller.text, owner.settings.stop)
        return Update(owner.ticket, owner.answer, text, written=written, pieces=pieces)

    def _close(self, row: Row) -> Update:
        """Turn a finished row into the last word on its answer."""
        owner = self._open.pop(row.place)
        speller = self._spellers.pop(row.place, None)
        answer = to_answer(row, self._vocabulary.decode(row.request.prompt), self._vocabulary, owner.settings)
        pieces = () if speller is None else speller.of(row.tokens)
        return Update(owner.ticket, owner.answer, answer.text, answer, row.error, pieces=pieces)
