"""trimtab steers a frozen language model at inference time: policies multiply, values search, weights add."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trimtab import decoding, engines, evaluation, rewards, testing, training, values, vectors
    from trimtab.decoding.answer import Answer
    from trimtab.decoding.constraints import Constraints
    from trimtab.decoding.search import search
    from trimtab.engines.remote.remote import Remote
    from trimtab.errors import TrimtabError
    from trimtab.policies import recipes
    from trimtab.policies.base import Leaf, Policy
    from trimtab.policies.expression import parse
    from trimtab.policies.knob import Knob
    from trimtab.policies.lm import LM
    from trimtab.policies.mixture import mix
    from trimtab.policies.policy_file import read_policy_file
    from trimtab.policies.state import State
    from trimtab.policies.support import plausible, top_k, within
    from trimtab.policies.toy import Table
    from trimtab.policies.vector import Vector
    from trimtab.policies.vocabulary import Vocabulary
    from trimtab.training.config import TrainConfig
    from trimtab.training.trainer import train

__version__ = "0.1.0"

# Names are imported when they are first used, so that `trimtab --help` does not wait for torch.
_HOMES = {
    "Answer": "trimtab.decoding.answer",
    "Constraints": "trimtab.decoding.constraints",
    "Knob": "trimtab.policies.knob",
    "LM": "trimtab.policies.lm",
    "Leaf": "trimtab.policies.base",
    "Policy": "trimtab.policies.base",
    "Remote": "trimtab.engines.remote.remote",
    "State": "trimtab.policies.state",
    "Table": "trimtab.policies.toy",
    "TrainConfig": "trimtab.training.config",
    "TrimtabError": "trimtab.errors",
    "Vector": "trimtab.policies.vector",
    "Vocabulary": "trimtab.policies.vocabulary",
    "mix": "trimtab.policies.mixture",
    "parse": "trimtab.policies.expression",
    "plausible": "trimtab.policies.support",
    "read_policy_file": "trimtab.policies.policy_file",
    "search": "trimtab.decoding.search",
    "top_k": "trimtab.policies.support",
    "train": "trimtab.training.trainer",
    "within": "trimtab.policies.support",
}
_ROOMS = {
    "decoding": "trimtab.decoding",
    "engines": "trimtab.engines",
    "evaluation": "trimtab.evaluation",
    "recipes": "trimtab.policies.recipes",
    "rewards": "trimtab.rewards",
    "testing": "trimtab.testing",
    "training": "trimtab.training",
    "values": "trimtab.values",
    "vectors": "trimtab.vectors",
}

__all__ = [
    "LM",
    "Answer",
    "Constraints",
    "Knob",
    "Leaf",
    "Policy",
    "Remote",
    "State",
    "Table",
    "TrainConfig",
    "TrimtabError",
    "Vector",
    "Vocabulary",
    "__version__",
    "decoding",
    "engines",
    "evaluation",
    "mix",
    "parse",
    "plausible",
    "read_policy_file",
    "recipes",
    "rewards",
    "search",
    "testing",
    "top_k",
    "train",
    "training",
    "values",
    "vectors",
    "within",
]


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(_ROOMS[name])
    if name in _HOMES:
        found: object = getattr(import_module(_HOMES[name]), name)
        return found
    raise AttributeError(f"module 'trimtab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
