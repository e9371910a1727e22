"""How answers are searched for, as one value: who scores them and in which shape; and how it is made of settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trimtab.assets.store import Progress, silent
from trimtab.decoding import candidates, shape
from trimtab.decoding.boundary import read_boundary
from trimtab.decoding.candidates import Candidates
from trimtab.decoding.hunt import Found
from trimtab.decoding.request import Settings
from trimtab.decoding.search import search
from trimtab.decoding.shape import Shape
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.search_settings import SearchSettings, pair_in
from trimtab.rewards import load_reward
from trimtab.values import LogRatio, PrefixValue, RewardValue
from trimtab.values.value import Value


@dataclass(frozen=True)
class SearchPlan:
    """How answers are searched for.

    Args:
        value: what scores answers so far.
        shape: how wide and how long the search is, and who is kept; or how tokens are chosen among candidates.
    """

    value: Value
    shape: Shape | Candidates = field(default_factory=Shape)

    def find(
        self, policy: Policy, prompts: Sequence[str], settings: Settings, knobs: Mapping[str, float] | None = None
    ) -> list[Found]:
        """Search; :func:`~trimtab.decoding.search.search` says what it finds and raises.

        Args:
            policy: what proposes.
            prompts: texts.
            settings: sampling, lengths and seed.
            knobs: knob values for all prompts.

        Example:
            >>> from trimtab.policies.toy import Table
            >>> coin = Table.of({"": {"heads": 0.5, "tails": 0.5}})
            >>> heads = RewardValue(lambda completions, **_: [float(text.count("heads")) for text in completions])
            >>> plan = SearchPlan(heads, Shape(beams=2, branches=8, chunk=1))
            >>> plan.find(coin, ["tails"], Settings(max_new_tokens=3))[0].best.text
            'heads heads heads'
        """
        sampling = settings.sampling
        return search(
            policy,
            prompts,
            self.value,
            self.shape,
            max_new_tokens=settings.max_new_tokens,
            min_new_tokens=settings.min_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            stop=(*settings.stop, *settings.stop_ids),
            seed=settings.seed,
            knobs=knobs,
        )


def build_plan(settings: SearchSettings, load: Callable[[str], Leaf], *, progress: Progress = silent) -> SearchPlan:
    """Make what settings describe.

    Args:
        settings: of a policy file or a command line.
        load: turns the name or the source of a model into the model. A pair is heard for free where it gives the very
            leaves that the policy runs.
        progress: told what is going on while a reward is fetched or trained.

    Raises:
        ConfigError: there is no such reward, the ends of chunks cannot be read, or a number is out of its range.
        ModelError: a model cannot be loaded.
        VocabularyError: the models of a pair have different tokens.
    """
    made = build_shape(settings)  # first: it needs no model
    return SearchPlan(build_value(settings.value, load, progress=progress), made)


def build_shape(settings: SearchSettings) -> Shape | Candidates:
    """Return the shape of a named method; each takes of the settings what it needs.

    Raises:
        ConfigError: the ends of chunks cannot be read, or a number is out of its range.

    Example:
        >>> build_shape(SearchSettings(method="best_of_n", value="reward:length", branches=16)).rows
        16
    """
    beams, branches, weight = settings.beams, settings.branches, settings.weight
    token_wise = {
        "args": candidates.args,
        "fudge": candidates.fudge,
        "rad": candidates.rad,
        "cd": candidates.cd,
        "vas": candidates.vas,
    }
    if method := token_wise.get(settings.method):
        return method(branches) if weight is None else method(branches, weight)
    ends = read_boundary(str(settings.chunk))
    if settings.method == "rejection":
        assert settings.threshold is not None  # the settings see to it
        return shape.rejection(settings.threshold, branches, ends)
    made: dict[str, Callable[[], Shape]] = {
        "chunk_beam": lambda: shape.chunk_beam(beams, branches, ends),
        "blockwise": lambda: shape.blockwise(branches, ends),
        "best_of_n": lambda: shape.best_of_n(branches),
        "deal": lambda: shape.deal(beams, branches, ends, settings.likelihood),
        "speculative_rejection": lambda: shape.speculative_rejection(beams, ends),
        "smc": lambda: shape.smc(beams, ends),
    }
    return made[settings.method]()


def build_value(text: str, load: Callable[[str], Leaf], *, progress: Progress = silent) -> Value:
    """Return the value that a text names.

    Args:
        text: ``tuned / untuned``, ``reward:NAME``, or a model or the folder of a trained value.
        load: turns the name or the source of a model into the model.
        progress: told what is going on while a reward is fetched or trained.

    Raises:
        ConfigError: there is no such reward.
        ModelError: a model cannot be loaded.
        VocabularyError: the models of a pair have different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> build_value("a / b", lambda name: Table.random(3, seed=ord(name), name=name)).tuned.name
        'a'
    """
    if text.startswith("reward:"):
        return RewardValue(load_reward(text.removeprefix("reward:"), progress=progress))
    if pair := pair_in(text):
        return LogRatio(load(pair[0]), load(pair[1]))
    return PrefixValue(load(text))
