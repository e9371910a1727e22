"""`trimtab eval --engine vllm`: a contest whose base and policies answer inside vLLM, one engine after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.cli.asked import Asked, Wanted, common_base, refuse_unknown_knobs
from trimtab.cli.console import Talk
from trimtab.cli.prepared import Prepared

if TYPE_CHECKING:
    from trimtab.decoding.search_plan import SearchPlan
    from trimtab.engines.base import MeteredEngine
    from trimtab.engines.turns import Turns
    from trimtab.evaluation.player import Player
    from trimtab.policies.base import Policy
    from trimtab.policies.policy_file import PolicyFile
    from trimtab.policies.search_settings import SearchSettings
    from trimtab.policies.vocabulary import Vocabulary
    from trimtab.tasks.contest import Conditions, Standing
    from trimtab.tasks.task import Row


def check_on_vllm(wanted: Wanted) -> Policy:
    """Refuse what vLLM cannot do, before anything is loaded; returns a sketch of the base.

    Raises:
        ConfigError: vLLM is not installed, a policy or a search does not run in it, policies have different bases, or a
            knob is unknown.
        KnobError: the value of a knob is out of its range.
    """
    from trimtab.engines.abilities import VLLM
    from trimtab.engines.explain import explain
    from trimtab.engines.vllm.serve import require_vllm
    from trimtab.policies.knob import bind

    sketches = [each.sketch(wanted.knobs) for each in wanted.asked]
    for sketch, search in zip(sketches, wanted.searches, strict=True):
        explain(sketch, VLLM, search=search).check()
    refuse_unknown_knobs(wanted.knobs, sketches)
    for sketch in sketches:
        bind(sketch.knobs, [{knob.name: wanted.knobs[knob.name] for knob in sketch.knobs if knob.name in wanted.knobs}])
    base = common_base(sketches)
    require_vllm()
    return base


def contest_on_vllm(wanted: Wanted, ready: Prepared, how: Callable[[Vocabulary], Conditions], talk: Talk) -> Standing:
    """Let a base, policies and baselines compete.

    Args:
        wanted: what is compared.
        ready: the task.
        how: what all have in common, by the tokens of the base.
        talk: told what is going on.

    Raises:
        TrimtabError: something of what :func:`~trimtab.tasks.contest.compete` and the engine raise.
    """
    from trimtab.engines.tokenizer import load_vocabulary
    from trimtab.engines.turns import Turns
    from trimtab.engines.vllm.engine import VLLMEngine
    from trimtab.policies.sketch import Sketch
    from trimtab.tasks.contest import compete

    def start(file: PolicyFile) -> MeteredEngine:
        dtype = wanted.asked[0].dtype
        return VLLMEngine(file, {} if dtype == "auto" else {"dtype": dtype}, metered=True, progress=talk.note)

    base = check_on_vllm(wanted)
    assert isinstance(base, Sketch)  # what vLLM runs is made of LMs
    vocabulary = load_vocabulary(str(base.source))
    conditions = how(vocabulary)
    turns = Turns(start)
    try:
        players = _Stage(wanted, ready, str(base), vocabulary, conditions.rows, turns, talk).players()
        return compete(
            ready.task,
            players,
            conditions,
            on_policy=lambda name: talk.note(f"{'searching with' if players[name].search else 'sampling from'} {name}"),
        )
    finally:
        turns.close()


@dataclass(frozen=True)
class _Stage:
    """What players are made from.

    Args:
        wanted: what is compared.
        ready: the task.
        base: the base, as an expression.
        vocabulary: of the base.
        rows: the prompts with their columns.
        turns: of engines.
        talk: told what is going on.
    """

    wanted: Wanted
    ready: Prepared
    base: str
    vocabulary: Vocabulary
    rows: Sequence[Row]
    turns: Turns[PolicyFile]
    talk: Talk

    def players(self) -> dict[str, Player]:
        """Return the players in the order of their engines' turns: the base asks the first, baselines the last."""
        from trimtab.evaluation.engine_player import EnginePlayer

        steered: dict[str, Player] = {}
        engines = []
        for asked, search in zip(self.wanted.asked, self.wanted.searches, strict=True):
            sketch = asked.sketch(self.wanted.knobs)
            if search is None and sketch == sketch.reference:  # it is shown once, as the base
                continue
            engine = self.turns.of(asked.as_file(self.wanted.knobs))
            names = frozenset(knob.name for knob in sketch.knobs)
            plan = None if search is None else self._plan(search, asked)
            name = asked.text if search is None else f"{asked.text} ({search.method})"
            steered[name] = EnginePlayer(str(sketch), self.vocabulary, engine, names, search=plan)
            engines.append(engine)
        engines = engines or [self.turns.of(self.wanted.asked[0].as_file(self.wanted.knobs))]
        base = EnginePlayer(self.base, self.vocabulary, engines[0])
        return {"base": base, **steered, **{name: self._baseline(name, engines[-1]) for name in self.wanted.baselines}}

    def _plan(self, search: SearchSettings, asked: Asked) -> SearchPlan:
        """Return how a policy's answers are searched for; models of the value are loaded here."""
        from trimtab.decoding.search_plan import build_plan
        from trimtab.tasks.baselines import informed

        return informed(build_plan(search, asked.lm, progress=self.talk.note), self.vocabulary, self.rows)

    def _baseline(self, name: str, engine: Callable[[], MeteredEngine]) -> Player:
        """Return what asks the base, with a text before the prompt or for the best of many."""
        from trimtab.evaluation.engine_player import EnginePlayer
        from trimtab.policies.view import prompt_view
        from trimtab.tasks.baselines import asking, best_of

        plan = best_of(name, self.ready.reward, self.vocabulary, self.rows)
        if plan is not None:
            return EnginePlayer(self.base, self.vocabulary, engine, search=plan)
        text = asking(self.ready.task, self.vocabulary, shown=name == "examples")
        return EnginePlayer(self.base, self.vocabulary, engine, view=prompt_view(self.vocabulary, text))
