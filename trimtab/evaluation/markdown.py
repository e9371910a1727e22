"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    r"""Return a table, one row a line; bars inside a cell are escaped.

    Args:
        head: names of the columns.
        lines: as many cells each.

    Example:
        >>> print(markdown_table(["a", "b"], [["1", "x | y"]]))
        | a | b |
        |---|---|
        | 1 | x \| y |
        <BLANKLINE>
    """
    first, *rest = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in (head, *lines))
    return "".join([first, "|---" * len(head) + "|\n", *rest])
