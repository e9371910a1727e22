"""A judge of faithfulness by natural language inference: whether a passage contradicts what an answer says."""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.assets.store import Progress, silent
from trimtab.rewards.classifier import Classifier
from trimtab.rewards.columns import column

NAME = "contradiction"


@dataclass(frozen=True)
class Contradiction:
    """``r = 1 - P(contradiction | passage, answer)`` by a classifier of pairs, from 0 (contradicted) to 1.

    The column ``passage`` holds a text a row.

    Args:
        classifier: of pairs of a premise and a claim, with a label for contradictions.

    Example:
        >>> judge = Contradiction.load()  # doctest: +SKIP
        >>> judge(["Tell me."], ["It has two moons."], passage=["Mars has no moon."])  # doctest: +SKIP
        [0.002...]
    """

    classifier: Classifier

    @classmethod
    def load(
        cls,
        model: str = "cross-encoder/nli-deberta-v3-small",
        label: str = "contradiction",
        *,
        progress: Progress = silent,
    ) -> "Contradiction":
        """Load the judge.

        Args:
            model: a transformers folder or a hub id, trained on natural language inference.
            label: what the model calls a contradiction.
            progress: told what is going on, one plain line at a time.

        Raises:
            ModelError: the model cannot be loaded.
            ConfigError: it has no such label.
        """
        progress(f"loading {model} to look for contradictions")
        return cls(Classifier.load(model, label=label))

    @property
    def name(self) -> str:
        """The judge, whichever model it asks."""
        return NAME

    @property
    def origins(self) -> frozenset[str]:
        """The model."""
        return self.classifier.origins

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[object]) -> list[float]:
        """Return 1 - P(contradiction) of each completion."""
        passages = column(columns, "passage", str)
        return [1 - found for found in self.classifier.scores(passages, completions)]
