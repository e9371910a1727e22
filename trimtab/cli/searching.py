"""Search on the command line: what flags make of a policy file's search, and how what was found is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from trimtab.cli.console import Talk
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from trimtab.cli.asked import Asked
    from trimtab.decoding.answer import Answer
    from trimtab.decoding.hunt import Found
    from trimtab.policies.search_settings import SearchSettings


def search_settings(asked: Asked, method: str | None, flags: Mapping[str, object]) -> SearchSettings | None:
    """Return how a policy's answers are searched for, nothing where they are sampled alone.

    Args:
        asked: the policy, with the search of its file.
        method: ``--search``; "none" turns the file's search off.
        flags: the other options of a search by name, None where they were not given; they override the file.

    Raises:
        ConfigError: there is no value, one of its pair is no model, a setting is wrong or missing, or there is no
            search to set.
    """
    from pydantic import ValidationError

    from trimtab.decoding.search_plan import build_shape
    from trimtab.policies.search_settings import SearchSettings, check_pair

    given = {name: value for name, value in flags.items() if value is not None}
    if method == "none" or (method is None and asked.search is None):
        if given:
            raise ConfigError(
                given=f"--{next(iter(given))} without a search", expected="a search to set", hint="add --search METHOD"
            )
        return None
    own = {} if asked.search is None else asked.search.model_dump()
    if asked.search is not None and method not in (None, asked.search.method):
        own = {name: setting for name, setting in own.items() if name not in ("threshold", "likelihood", "weight")}
    settings = {**own, **given, **({} if method is None else {"method": method})}
    if "value" not in settings:
        raise ConfigError(
            given="--search without --value",
            expected="what answers are scored by",
            hint='--value "tuned / untuned", --value reward:sentiment, or --value FOLDER',
        )
    try:
        found = SearchSettings.model_validate(settings)
    except ValidationError as error:
        raise _wrong(error, str(settings["method"])) from error
    build_shape(found)  # refuses what the settings alone do not, before a model is loaded
    check_pair(found.value, asked.sources, "add --model {}=SOURCE")
    return found


def _wrong(error: ValidationError, method: str) -> ConfigError:
    """Tell the first mistake in terms of options."""
    first = error.errors()[0]
    option, given = f"--{first['loc'][0]}", first["input"]
    return ConfigError(
        given=f"--search {method} without {option}" if given is None else f"{option} {given} with --search {method}",
        expected=first["msg"].removeprefix("Value error, ").removeprefix("Input should be "),
        hint=f"add {option}" if given is None else "correct or drop it",
    )


def refuse_beside_search(n: int, draft: str | None) -> None:
    """Refuse options that a search would not heed.

    Raises:
        ConfigError: several answers are wanted, or drafts.
    """
    if n != 1:
        raise ConfigError(
            given=f"a search with -n {n}",
            expected="one best answer a prompt",
            hint="use --branches, or --search none to sample",
        )
    if draft is not None:
        raise ConfigError(
            given=f"a search with --draft {draft}",
            expected="a search without drafts",
            hint="drop it, or add --search none to sample",
        )


def show(talk: Talk, policy: str, seed: int, made: Sequence[Answer] | Sequence[Found]) -> None:
    """Print the answers, or the best that was found for each prompt, or everything as JSON."""
    from trimtab.decoding.answer import Answer
    from trimtab.decoding.found_file import found_to_dict

    answers = [each for each in made if isinstance(each, Answer)]
    found = [each for each in made if not isinstance(each, Answer)]
    if talk.as_json:
        told = {"answers": [asdict(each) for each in answers]} if answers else {"found": [*map(found_to_dict, found)]}
        talk.result({"policy": policy, "seed": seed, **told})
        return
    for answer in answers:
        about = f"  [{answer.mean_kl:.2f} nats per token from the base]" if answer.kl else ""
        _print(talk, answer, about)
    for one in found:
        answer, score = one.hypotheses[0]
        _print(talk, answer, f"  [score {score:.3f}]")


def _print(talk: Talk, answer: Answer, about: str) -> None:
    """Print a prompt, its answer, what is known of it, and which keywords it lacks."""
    lacks = f"  [lacks {', '.join(answer.unmet)}]" if answer.unmet else ""
    talk.out.print(Text(answer.prompt, style="bold") + Text(answer.text) + Text(about + lacks, style="dim"))
