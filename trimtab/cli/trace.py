"""`trimtab trace`: the tree of a search, in the terminal or as a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.cli.console import Talk
from trimtab.cli.options import Json, Quiet
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.decoding.hunt import Found


def trace(
    source: Annotated[str, typer.Argument(help="What `generate --search ... --json` printed; - reads it here.")] = "-",
    everything: Annotated[bool, typer.Option("--all", help="Show every chunk, those that led nowhere too.")] = False,
    html: Annotated[Path | None, typer.Option(help="Draw a page instead; it is replaced if it exists.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a search proposed, what it was worth, and what was kept."""
    talk = Talk(as_json, quiet)
    policy, seed, found = read_found(source)
    if html is not None:
        from trimtab.evaluation.search_page import write_search_page

        talk.note(f"drawing {sum(len(each.trace.nodes) for each in found)} chunks")
        write_search_page(html, found, facts={"Policy": policy, "Seed": str(seed)})
    if as_json:
        talk.result({"html": None if html is None else str(html), "searches": [_summary(each) for each in found]})
    elif html is not None:
        talk.out.print(str(html), highlight=False)
    else:
        from trimtab.cli.tree import tree_of

        if not talk.out.is_terminal:
            talk.out.width = 1_000_000  # lines wrap inside the tree on a terminal; another program reads them whole
        for each in found:
            talk.out.print(tree_of(each, everything=everything), soft_wrap=False, highlight=False)


def read_found(source: str) -> tuple[str, object, list[Found]]:
    """Read what ``trimtab generate --search ... --json`` printed.

    Args:
        source: a file, or - for standard input.

    Returns:
        The policy, the seed, and what was found for each prompt.

    Raises:
        ConfigError: it cannot be read or is something else; the message says where and what is wrong.
    """
    from trimtab.decoding.found_file import found_from_dict

    place = "standard input" if source == "-" else source
    wanted = "what trimtab generate POLICY PROMPT --search METHOD --json printed"
    try:
        content = json.loads(sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            given=f"{place}, which cannot be read ({error.strerror})", expected=wanted, hint="check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            given=f"{place}, which is no JSON that can be read", expected=wanted, hint="write it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("found"), list) or not content["found"]:
        raise ConfigError(given=f"{place}, which holds no search", expected=wanted, hint="add --search to generate")
    searches = []
    for number, each in enumerate(content["found"]):
        try:
            searches.append(found_from_dict(each))
        except ConfigError as error:
            given = f"{place}, search {number}: {error.given}"
            raise ConfigError(given=given, expected=error.expected, hint=error.hint) from None
    return str(content.get("policy", "")), content.get("seed"), searches


def _summary(found: Found) -> dict[str, object]:
    """Return the numbers of a search."""
    nodes = found.trace.nodes
    return {
        "prompt": found.best.prompt,
        "best": found.best.text,
        "score": found.hypotheses[0][1],
        "hypotheses": len(found.hypotheses),
        "boundaries": 1 + max(node.depth for node in nodes),
        "chunks": len(nodes),
        "dropped": sum(not node.kept for node in nodes),
        "tokens": found.trace.tokens,
    }
