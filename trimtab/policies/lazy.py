"""Tensors by name that are computed or read when they are asked for, and not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import Tensor


class LazyTensors(Mapping[str, Tensor]):
    """A mapping whose values are made anew whenever they are asked for; asking for names makes none.

    Args:
        names: of the tensors.
        make: makes the one of a name.

    Example:
        >>> import torch
        >>> doubled = LazyTensors(["a", "b"], lambda name: torch.ones(2) * (2 if name == "a" else 4))
        >>> "a" in doubled, "c" in doubled, doubled["b"].tolist()
        (True, False, [4.0, 4.0])
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], Tensor]) -> None:
        self._names = dict.fromkeys(names)
        self._make = make

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
