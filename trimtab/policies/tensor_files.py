"""Tensors in safetensors files, read one by one when they are asked for, and written one by one.

The format is eight bytes with the header's length, a JSON header with every tensor's dtype, shape and place, and the
tensors' bytes, little end first: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trimtab.errors import ModelError

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_ENTRY = 160
"""Bytes that suffice for what the header says of one tensor besides its name."""


@dataclass(frozen=True, eq=False)
class TensorFiles(Mapping[str, Tensor]):
    """The tensors of some files by name; each is read anew whenever it is asked for, and checked.

    Args:
        places: what the tensors are called here, to the file each is in and its name there.
        shapes: theirs.
        stamps: sizes and times of the files when they were opened; a file that was changed since is not read.
    """

    places: Mapping[str, tuple[Path, str]]
    shapes: Mapping[str, tuple[int, ...]]
    stamps: Mapping[Path, tuple[int, int]]

    @staticmethod
    def open(files: Sequence[Path]) -> TensorFiles:
        """Read the headers of files.

        Raises:
            ModelError: one is missing or damaged.
        """
        places: dict[str, tuple[Path, str]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        stamps = {}
        for path in files:
            try:
                stamps[path] = _stamp(path)
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118, the file is no mapping
                        places[name] = (path, name)
                        shapes[name] = tuple(file.get_slice(name).get_shape())
            except (SafetensorError, OSError) as error:
                raise ModelError(
                    given=f"{path}, which is damaged or missing: {error}",
                    expected="a whole safetensors file",
                    hint="copy it again",
                ) from error
        return TensorFiles(places, shapes, stamps)

    def renamed(self, names: Mapping[str, str]) -> TensorFiles:
        """Keep the tensors whose new name is a key; its value is the name that they had."""
        places = {new: self.places[old] for new, old in names.items()}
        return TensorFiles(places, {new: self.shapes[old] for new, old in names.items()}, self.stamps)

    def __getitem__(self, name: str) -> Tensor:
        path, stored = self.places[name]
        try:
            changed = _stamp(path) != self.stamps[path]
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(stored)
        except (SafetensorError, OSError) as error:
            raise _gone(path, stored, str(error)) from error
        if changed:
            raise _gone(path, stored, "it was written again")
        return finite(tensor, f"{stored!r} in {path}")

    def __contains__(self, name: object) -> bool:
        return name in self.places  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _gone(path: Path, name: str, why: str) -> ModelError:
    return ModelError(
        given=f"{name!r} in {path}, which is no longer what was opened: {why}",
        expected="files that stay as they are while they are in use",
        hint="load it again",
    )


def finite(tensor: Tensor, what: str) -> Tensor:
    """Return a tensor without NaN and without infinite values.

    Raises:
        ModelError: it has some.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    least, most = (float(each) for each in tensor.aminmax())  # NaN if there is any; takes no memory
    if not (math.isfinite(least) and math.isfinite(most)):
        wrong = "NaN" if math.isnan(most) else "infinite values"
        raise ModelError(
            given=f"the tensor {what}, which has {wrong}",
            expected="finite weights",
            hint="training may have diverged; take an earlier checkpoint",
        )
    return tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file with one tensor in memory at a time.

    Args:
        path: where to.
        tensors: floating-point tensors by name, each asked for once.

    Raises:
        ModelError: one has values that are not finite, or that are no floating-point numbers of a usual kind.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    # Dtypes and shapes are known when all is written; the header, padded with spaces, goes in front of it then.
    room = 64 + sum(len(json.dumps(name)) + _ENTRY for name in tensors)
    room += -room % 8
    with path.open("wb") as file:
        file.seek(8 + room)
        end = 0
        for name in sorted(tensors):
            tensor = finite(tensors[name].detach(), repr(name)).cpu().contiguous()
            if tensor.dtype not in _DTYPES:
                raise ModelError(
                    given=f"the tensor {name!r} of {tensor.dtype}",
                    expected=", ".join(map(str, _DTYPES)),
                    hint="differences are floating-point numbers",
                )
            start, end = end, end + tensor.numel() * tensor.element_size()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            place = [start, end]
            entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        header = json.dumps(entries, separators=(",", ":")).encode()
        file.seek(0)
        file.write(struct.pack("<Q", room) + header.ljust(room))
