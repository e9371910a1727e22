"""Scorers of finished answers: rewards, which training sees, and judges, which it never does."""

from trimtab.rewards.cached import Cached
from trimtab.rewards.classifier import Classifier
from trimtab.rewards.combine import Product, Sum
from trimtab.rewards.encoder import SentenceEncoder
from trimtab.rewards.judges import RottenTomatoes, Vader, check_independent, load_judge
from trimtab.rewards.keywords import Keywords
from trimtab.rewards.length import Length
from trimtab.rewards.level import LevelJudge, LevelReward
from trimtab.rewards.load import load_reward
from trimtab.rewards.regex import Regex
from trimtab.rewards.repetition import Repetition
from trimtab.rewards.reward import FunctionReward, Reward, as_reward
from trimtab.rewards.score import score
from trimtab.rewards.sentiment import Sentiment
from trimtab.rewards.tfidf import TfidfClassifier

__all__ = [
    "Cached",
    "Classifier",
    "FunctionReward",
    "Keywords",
    "Length",
    "LevelJudge",
    "LevelReward",
    "Product",
    "Regex",
    "Repetition",
    "Reward",
    "RottenTomatoes",
    "SentenceEncoder",
    "Sentiment",
    "Sum",
    "TfidfClassifier",
    "Vader",
    "as_reward",
    "check_independent",
    "load_judge",
    "load_reward",
    "score",
]
