"""The built-in sentiment reward: a linear classifier of film reviews, trained at its first use."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.assets import home, make_once, movie_reviews
from trimtab.assets.store import Progress, silent
from trimtab.rewards.text import Scope, scoped
from trimtab.rewards.tfidf import TfidfClassifier


@dataclass(frozen=True)
class Sentiment:
    """P(positive) of a completion, from 0 to 1, by TF-IDF and logistic regression trained on IMDB reviews.

    Args:
        classifier: gives P(positive).
        scope: ``"completion"`` scores the continuation alone, ``"text"`` the prompt and the continuation.

    Raises:
        ConfigError: there is no such scope.

    Example:
        >>> films = TfidfClassifier.fit(["a good film", "a bad film"], [1, 0], min_count=1)
        >>> good, bad = Sentiment(films)(["It is", "It is"], [" good", " bad"])
        >>> good > bad
        True
    """

    classifier: TfidfClassifier
    scope: Scope = "completion"

    def __post_init__(self) -> None:
        scoped(self.scope, [], [])

    @classmethod
    def load(cls, scope: Scope = "completion", *, progress: Progress = silent) -> "Sentiment":
        """Return the reward, training it on the IMDB training split if that was not done before (about 10 seconds).

        Args:
            scope: what is scored.
            progress: told what is going on, one plain line at a time.

        Raises:
            ConfigError: scikit-learn is not installed, or the home cannot be written to.
            AssetError: the reviews cannot be fetched.

        Example:
            >>> Sentiment.load()(["The film was"], [" a joy from start to finish"])  # doctest: +SKIP
            [0.782...]
        """

        def train(folder: Path) -> None:
            reviews = movie_reviews("imdb", "train", progress=progress)
            progress(f"training the sentiment reward on {len(reviews.texts)} reviews")
            TfidfClassifier.fit(reviews.texts, reviews.labels).save(folder)

        return cls(TfidfClassifier.load(make_once(home() / "classifiers" / "sentiment-imdb-1", train)), scope)

    @property
    def name(self) -> str:
        """The reward with its scope, if that is not the default."""
        return "sentiment" if self.scope == "completion" else f"sentiment({self.scope})"

    @property
    def origins(self) -> frozenset[str]:
        """Itself and the IMDB reviews."""
        return frozenset({"sentiment", "data:imdb"})

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return P(positive) of each completion."""
        return self.classifier.probabilities(scoped(self.scope, prompts, completions))
