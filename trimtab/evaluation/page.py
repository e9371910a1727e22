"""Self-contained HTML pages: a template in a sandbox, a style that all pages share, and a file.

Whatever comes from data is escaped; a page runs no script and loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from trimtab.errors import RunError
from trimtab.rewards.extras import extra


def write_page(target: Path, template: str, content: Mapping[str, object]) -> Path:
    """Fill a template in and write it.

    Args:
        target: the HTML file; it is replaced if it exists.
        template: name of a file beside this one; it may use ``style``, what all pages share.
        content: what the template shows.

    Returns:
        ``target``.

    Raises:
        ConfigError: jinja2 is not installed.
        RunError: the file cannot be written.
    """
    environment = extra("jinja2.sandbox").SandboxedEnvironment(
        autoescape=True, undefined=extra("jinja2").StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder = files("trimtab.evaluation")
    style = extra("markupsafe").Markup(folder.joinpath("page.css").read_text("utf-8"))
    page = environment.from_string(folder.joinpath(template).read_text("utf-8")).render({**content, "style": style})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(
            given=f"the page {target} ({error.strerror})",
            expected="a file that can be written",
            hint="choose another place, or free some disk space",
        ) from error
    return target
