"""The files of the playground: a fixed list, read once, served under fixed names."""

from __future__ import annotations

from importlib.resources import files

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What browsers are told that files are."""


def page_files() -> dict[str, tuple[bytes, str]]:
    """Return the path of each file to its content and type; ``/`` is the page itself.

    Example:
        >>> page_files()["/"][1]
        'text/html; charset=utf-8'
    """
    found = {}
    for each in files("trimtab.serving").joinpath("playground").iterdir():
        suffix = "." + each.name.rpartition(".")[2]
        if suffix in TYPES:
            path = "/" if each.name == "index.html" else f"/playground/{each.name}"
            found[path] = (each.read_bytes(), TYPES[suffix])
    return found
