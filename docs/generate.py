"""Write a page for each recipe from its docstring, and an index; `--check` fails when a page is out of date."""

import argparse
import inspect
import re
import sys
from pathlib import Path

from trimtab.policies import recipes

FOLDER = Path(__file__).parent / "recipes"
SECTIONS = ("Args:", "Returns:", "Raises:", "Example:", "Reference:", "Deviations:")


def functions():
    """Return the recipes in the order of their file."""
    own = [f for _, f in inspect.getmembers(recipes, inspect.isfunction) if f.__module__ == recipes.__name__]
    return sorted((f for f in own if not f.__name__.startswith("_")), key=lambda f: f.__code__.co_firstlineno)


def page(function):
    """Return a recipe's page: its signature, and its docstring with the sections as headings."""
    signature = f"{function.__name__}{inspect.signature(function)}".replace("'", "")
    lines = [f"# {function.__name__}", "", "```python", f"tt.recipes.{signature}", "```", ""]
    section = ""
    for line in inspect.getdoc(function).splitlines():
        found = next((name for name in SECTIONS if line.startswith(name)), None)
        if found:
            section = found
            lines += [f"## {found.rstrip(':')}", "", *([line.removeprefix(found).strip()] if line != found else [])]
        elif section in ("Args:", "Raises:") and line.strip():
            bullet = line.startswith("    ") and not line.startswith("     ")
            lines.append(f"* {line.strip()}" if bullet else f"  {line.strip()}")
        elif section in ("Returns:", "Deviations:", "Reference:"):
            lines.append(line.strip())
        else:
            lines.append(line)
    return re.sub(r":func:`(\w+)`", r"[`\1`](\1.md)", "\n".join(lines).rstrip()) + "\n"


def pages():
    """Return every page by its path."""
    found = {FOLDER / f"{function.__name__}.md": page(function) for function in functions()}
    index = [
        "# Recipes",
        "",
        "Named methods of the literature as products of policies. Made by `docs/generate.py`.",
        "",
    ]
    for function in functions():
        summary = inspect.getdoc(function).splitlines()[0]
        index.append(f"* [{function.__name__}]({function.__name__}.md): {summary}")
    found[FOLDER / "README.md"] = "\n".join(index) + "\n"
    return found


def main():
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if check and stale:
        sys.exit(f"out of date: {', '.join(path.name for path in stale)}; run make docs")
    FOLDER.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")


if __name__ == "__main__":
    main()
