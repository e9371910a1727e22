"""`trimtab models`: what is built in, and fetching it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from trimtab.cli.console import Talk
from trimtab.cli.options import Json, Quiet

app = typer.Typer(help="List the built-in models, or fetch one.", invoke_without_command=True)


@app.callback()
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """List the built-in models."""
    if context.invoked_subcommand is not None:
        return
    from trimtab.assets import built_in_models

    talk = Talk(as_json)
    models = built_in_models()
    if as_json:
        fields = ("name", "source", "hub_id", "megabytes", "licence", "cached", "path")
        talk.result({"models": [{name: getattr(model, name) for name in fields} for model in models]})
        return
    table = Table("name", "source", "MB", "licence", "cached")
    for model in models:
        table.add_row(
            model.name, model.source, str(model.megabytes), model.licence, str(model.path) if model.cached else "no"
        )
    talk.out.print(table)
    talk.out.print("Any local folder or hub id works too.")


@app.command("get")
def get(
    name: str,
    from_hub: Annotated[bool, typer.Option(help="The unquantised weights, from the model hub.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a built-in model and print its folder."""
    from trimtab.assets import get_model

    talk = Talk(as_json, quiet)
    path = get_model(name, from_hub=from_hub, progress=talk.note)
    if as_json:
        talk.result({"name": name, "path": str(path)})
    else:
        talk.out.print(str(path), highlight=False)
