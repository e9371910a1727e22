"""Scorers of finished answers: rewards, which training sees, and judges, which it never does."""

from trimtab.rewards.acceptability import Acceptability
from trimtab.rewards.cached import Cached
from trimtab.rewards.classifier import Classifier
from trimtab.rewards.clean_words import CleanWords
from trimtab.rewards.coherence import Coherence
from trimtab.rewards.combine import Product, Sum
from trimtab.rewards.contradiction import Contradiction
from trimtab.rewards.coverage import Coverage
from trimtab.rewards.diversity import Diversity
from trimtab.rewards.encoder import SentenceEncoder
from trimtab.rewards.fluency import Fluency
from trimtab.rewards.grounded import Grounded
from trimtab.rewards.inflections import inflections
from trimtab.rewards.judges import RottenTomatoes, Vader, check_independent, load_judge
from trimtab.rewards.keywords import Keywords
from trimtab.rewards.length import Length
from trimtab.rewards.level import LevelJudge, LevelReward
from trimtab.rewards.likelihood import Likelihood, mean_log_probs
from trimtab.rewards.load import load_reward
from trimtab.rewards.mild_words import MildWords
from trimtab.rewards.overlap import copied_span_rate, token_f1
from trimtab.rewards.perspective import Perspective
from trimtab.rewards.regex import Regex
from trimtab.rewards.repetition import Repetition
from trimtab.rewards.reward import FunctionReward, Reward, as_reward
from trimtab.rewards.safe_answer import RefusalJudge, SafeAnswer
from trimtab.rewards.score import Scores, score, score_known
from trimtab.rewards.sentiment import Sentiment
from trimtab.rewards.support import Support
from trimtab.rewards.tfidf import TfidfClassifier
from trimtab.rewards.tox_block import ToxBlock
from trimtab.rewards.toxicity import NonToxic

__all__ = [
    "Acceptability",
    "Cached",
    "Classifier",
    "CleanWords",
    "Coherence",
    "Contradiction",
    "Coverage",
    "Diversity",
    "Fluency",
    "FunctionReward",
    "Grounded",
    "Keywords",
    "Length",
    "LevelJudge",
    "LevelReward",
    "Likelihood",
    "MildWords",
    "NonToxic",
    "Perspective",
    "Product",
    "RefusalJudge",
    "Regex",
    "Repetition",
    "Reward",
    "RottenTomatoes",
    "SafeAnswer",
    "Scores",
    "SentenceEncoder",
    "Sentiment",
    "Sum",
    "Support",
    "TfidfClassifier",
    "ToxBlock",
    "Vader",
    "as_reward",
    "check_independent",
    "copied_span_rate",
    "inflections",
    "load_judge",
    "load_reward",
    "mean_log_probs",
    "score",
    "score_known",
    "token_f1",
]
