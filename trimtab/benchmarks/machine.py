"""Where a benchmark ran: processor, memory, device, dtype and versions. No number means anything without them."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("trimtab", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Machine:
    """Where a benchmark ran.

    Args:
        cpu: name of the processor.
        cores: that this process may use.
        threads: that torch uses.
        ram_gb: memory of the machine in GiB; None where the system does not say.
        device: "cpu", or the name of the GPU.
        dtype: of the weights.
        versions: of Python and of the packages that matter.
    """

    cpu: str
    cores: int
    threads: int
    ram_gb: float | None
    device: str
    dtype: str
    versions: dict[str, str]

    @staticmethod
    def here(device: torch.device, dtype: torch.dtype) -> Machine:
        """Look at this machine.

        Args:
            device: where the weights are.
            dtype: of the weights.

        Example:
            >>> Machine.here(torch.device("cpu"), torch.bfloat16).dtype
            'bfloat16'
        """
        return Machine(
            cpu=_cpu(),
            cores=_cores(),
            threads=torch.get_num_threads(),
            ram_gb=_ram(),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            dtype=str(dtype).removeprefix("torch."),
            versions={"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        memory = "" if self.ram_gb is None else f", {self.ram_gb:g} GB"
        where = "" if self.device == "cpu" else f", on {self.device}"
        return f"{self.cpu}, {self.cores} cores{memory}, {self.threads} threads{where}, {self.dtype}; {versions}"


def _cpu() -> str:
    """Return the name of the processor."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


def _ram() -> float | None:
    if sys.platform == "win32":
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
