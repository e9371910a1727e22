"""Judges: scorers that no training may ever see, and the check that keeps it so.

A judge has the form of a reward. It is kept apart so that a result is never reported by the scorer that was optimised.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trimtab.assets import home, make_once, movie_reviews
from trimtab.assets.store import Progress, silent
from trimtab.errors import AssetError, ConfigError
from trimtab.rewards.contradiction import Contradiction
from trimtab.rewards.encoder import SentenceEncoder
from trimtab.rewards.extras import extra
from trimtab.rewards.fluency import Fluency
from trimtab.rewards.likelihood import Likelihood
from trimtab.rewards.load import build, load_reward
from trimtab.rewards.perspective import Perspective
from trimtab.rewards.reward import Reward
from trimtab.rewards.safe_answer import RefusalJudge
from trimtab.rewards.stem_coverage import StemCoverage
from trimtab.rewards.support import Support
from trimtab.rewards.text import Scope, scoped
from trimtab.rewards.tox_block import ToxBlock


@dataclass(frozen=True)
class RottenTomatoes:
    """P(positive) from 0 to 1: logistic regression on frozen sentence embeddings, trained on Rotten Tomatoes sentences.

    ``P = sigmoid(bias + e . weights)`` with ``e`` the embedding of the text.

    Args:
        encoder: gives the embeddings.
        weights: of the logistic regression, (384,).
        bias: of the logistic regression, a scalar.
        scope: ``"completion"`` judges the continuation alone, ``"text"`` the prompt and the continuation.

    Raises:
        ConfigError: there is no such scope.

    Example:
        >>> RottenTomatoes.load()(["The film was"], [" a joy from start to finish"])  # doctest: +SKIP
        [0.738...]
    """

    encoder: SentenceEncoder
    weights: torch.Tensor
    bias: torch.Tensor
    scope: Scope = "completion"

    def __post_init__(self) -> None:
        scoped(self.scope, [], [])

    @classmethod
    def load(cls, scope: Scope = "completion", *, progress: Progress = silent) -> "RottenTomatoes":
        """Return the judge, training it on the Rotten Tomatoes training split if that was not done before.

        Args:
            scope: what is judged.
            progress: told what is going on, one plain line at a time.

        Raises:
            ConfigError: scikit-learn is not installed, or the home cannot be written to.
            AssetError: the encoder or the sentences cannot be fetched, or the stored judge is damaged.
        """
        encoder = SentenceEncoder.load(progress=progress)

        def train(folder: Path) -> None:
            reviews = movie_reviews("rotten_tomatoes", "train", progress=progress)
            progress(f"training the rt judge on {len(reviews.texts)} sentences")
            regression = extra("sklearn.linear_model").LogisticRegression(C=10.0, max_iter=1000)
            regression.fit(encoder.encode(reviews.texts).numpy(), reviews.labels)
            weights, bias = torch.tensor(regression.coef_[0]), torch.tensor(regression.intercept_[0])
            save_file({"weights": weights.float(), "bias": bias.float()}, folder / "weights.safetensors")

        folder = make_once(home() / "classifiers" / "sentiment-rotten-tomatoes-1", train)
        try:
            head = load_file(folder / "weights.safetensors")
            return cls(encoder, head["weights"], head["bias"], scope)
        except (OSError, KeyError, SafetensorError) as error:
            raise AssetError(
                given=f"{folder}, which cannot be read: {error!r}",
                expected="weights.safetensors with the weights and the bias of the judge",
                hint=f"delete {folder}; the judge is trained again at the next use",
            ) from error

    @property
    def name(self) -> str:
        """The judge with its scope, if that is not the default."""
        return "rt" if self.scope == "completion" else f"rt({self.scope})"

    @property
    def origins(self) -> frozenset[str]:
        """Itself, the Rotten Tomatoes sentences and the encoder."""
        return frozenset({"rt", "data:rotten_tomatoes", "model:all-minilm-l6-v2"})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return P(positive) of each completion."""
        texts = scoped(self.scope, prompts, completions)
        found: list[float] = torch.sigmoid(self.encoder.encode(texts) @ self.weights + self.bias).tolist()
        return found


@dataclass(frozen=True)
class Vader:
    """The compound score of VADER's sentiment lexicon and rules, from -1 (negative) to 1 (positive).

    Args:
        analyzer: a ``SentimentIntensityAnalyzer``.
        scope: ``"completion"`` judges the continuation alone, ``"text"`` the prompt and the continuation.

    Raises:
        ConfigError: there is no such scope.

    Reference:
        Hutto and Gilbert (2014), "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text".

    Example:
        >>> bad, good = Vader.load()(["It was", "It was"], [" awful", " great!"])
        >>> bad < -0.4 and good > 0.6
        True
    """

    analyzer: Any
    scope: Scope = "completion"

    def __post_init__(self) -> None:
        scoped(self.scope, [], [])

    @classmethod
    def load(cls, scope: Scope = "completion") -> "Vader":
        """Return the judge.

        Raises:
            ConfigError: vaderSentiment is not installed.
        """
        return cls(extra("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer(), scope)

    @property
    def name(self) -> str:
        """The judge with its scope, if that is not the default."""
        return "vader" if self.scope == "completion" else f"vader({self.scope})"

    @property
    def origins(self) -> frozenset[str]:
        """Itself: its lexicon was rated by people for the purpose."""
        return frozenset({"vader"})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return the compound score of each completion."""
        texts = scoped(self.scope, prompts, completions)
        return [float(self.analyzer.polarity_scores(text)["compound"]) for text in texts]


def load_judge(spec: str | Mapping[str, Any], *, progress: Progress = silent) -> Reward:
    """Return the judge that a name or a specification describes.

    Args:
        spec: ``"rt"``, ``"vader"``, ``"tox-block"``, ``"perspective"``, ``"fluency"``, ``"refusal-strings"``,
            ``"support"``, ``"contradiction"``, ``"stem-coverage"``, ``"likelihood"``, or what ``load_reward`` reads;
            with options ``{"name": "rt", "scope": "text"}``.
        progress: told what is going on while something is fetched or trained, one plain line at a time.

    Raises:
        ConfigError: there is no such judge, or an option is wrong.

    Example:
        >>> load_judge({"name": "vader", "scope": "text"}).name
        'vader(text)'
    """
    options = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    judges: dict[str, Callable[..., Reward]] = {
        "rt": partial(RottenTomatoes.load, progress=progress),
        "vader": Vader.load,
        "tox-block": partial(ToxBlock.load, progress=progress),
        "perspective": Perspective.load,
        "fluency": partial(Fluency.load, progress=progress),
        "refusal-strings": partial(RefusalJudge.load, progress=progress),
        "support": Support,
        "stem-coverage": StemCoverage.load,
        "contradiction": partial(Contradiction.load, progress=progress),
        "likelihood": partial(Likelihood.load, progress=progress),
    }
    name = options.get("name")
    if isinstance(name, str) and name in judges:
        return build(judges[name], options)
    return load_reward(spec, progress=progress, judges=tuple(judges))


def check_independent(reward: Reward, judge: Reward) -> None:
    """Refuse a judge that is, contains, or learned from the same data as the training reward.

    Args:
        reward: what is trained on.
        judge: what shall report the result.

    Raises:
        ConfigError: they share a scorer or a data set.

    Example:
        >>> from trimtab.rewards import Length, Repetition, Sum
        >>> check_independent(reward=Sum((Length(20), Repetition(3))), judge=Length(20))
        Traceback (most recent call last):
        ...
        trimtab.errors.ConfigError: given: the judge 'length(20)', which shares length(20) with the training reward ...
        expected: a judge that no training saw
        try: judge with another scorer, for example rt or vader
    """
    if shared := reward.origins & judge.origins:
        raise ConfigError(
            given=f"the judge {judge.name!r}, which shares {', '.join(sorted(shared))} with the training reward "
            f"{reward.name!r}",
            expected="a judge that no training saw",
            hint="judge with another scorer, for example rt or vader",
        )
