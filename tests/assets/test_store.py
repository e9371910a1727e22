import errno
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trimtab.assets import check_writable, home, make_once
from trimtab.errors import AssetError, ConfigError


def write_a(room: Path) -> None:
    (room / "a.txt").write_text("a")


def never(room: Path) -> None:
    raise AssertionError("built again")


def test_home_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "here"))
    assert home() == tmp_path / "here"
    assert not home().exists(), "asking where it is must not make it"


def test_home_honours_the_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRIMTAB_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "trimtab"


@pytest.mark.parametrize("cache", ["", "relative/cache"])
def test_home_ignores_a_relative_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: str) -> None:
    monkeypatch.delenv("TRIMTAB_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".cache" / "trimtab"


def test_a_home_that_is_a_file_is_refused_with_the_repair(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="TRIMTAB_HOME"):
        make_once(tmp_path / "file" / "models" / "m", write_a)


def test_a_home_without_permission_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Tests may run as root, whom chmod does not stop.
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(ConfigError, match="Permission denied"):
        check_writable(tmp_path)


def test_a_complete_folder_is_returned_without_writing_beside_it() -> None:
    # Nobody, not even root, can make files in /proc.
    assert make_once(Path("/proc/self/task"), never) == Path("/proc/self/task")


def test_it_is_built_once(tmp_path: Path) -> None:
    target = tmp_path / "room" / "words"
    make_once(target, write_a)
    assert make_once(target, never) == target
    assert (target / "a.txt").read_text() == "a"


@pytest.mark.parametrize("failure", [ValueError("broken"), KeyboardInterrupt()])
def test_a_failed_build_leaves_nothing_and_the_next_one_works(tmp_path: Path, failure: BaseException) -> None:
    def half(room: Path) -> None:
        (room / "half.txt").touch()
        raise failure

    target = tmp_path / "words"
    with pytest.raises(type(failure)):
        make_once(target, half)
    assert [path.name for path in tmp_path.iterdir()] == [".words.lock"]
    make_once(target, write_a)
    assert [path.name for path in target.iterdir()] == ["a.txt"]


def test_a_full_disk_is_an_asset_error(tmp_path: Path) -> None:
    def full(room: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(AssetError, match="free some disk space"):
        make_once(tmp_path / "words", full)
    assert not (tmp_path / "words").exists()


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib; from trimtab.assets import make_once\n"
        "def build(room): (room / 'half.txt').touch(); print('half', flush=True); time.sleep(60)\n"
        "make_once(pathlib.Path(sys.argv[1]), build)"
    )
    target = tmp_path / "words"
    with subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "half\n"
        process.kill()
    assert not target.exists() and list(tmp_path.glob(".words.partial/half.txt"))
    make_once(target, write_a)
    assert [path.name for path in target.iterdir()] == ["a.txt"]
    assert not list(tmp_path.glob("*.partial"))


def test_of_many_at_once_one_builds_and_all_wait_for_it(tmp_path: Path) -> None:
    built = []

    def slowly(room: Path) -> None:
        built.append(room)
        time.sleep(0.2)
        write_a(room)

    def read(_: int) -> str:
        return (make_once(tmp_path / "words", slowly) / "a.txt").read_text()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == ["a"] * 4
    assert len(built) == 1


def test_files_are_as_readable_as_their_folder(tmp_path: Path) -> None:
    def private(room: Path) -> None:
        room.chmod(0o755)
        (room / "a.txt").touch(mode=0o600)

    target = make_once(tmp_path / "words", private)
    assert (target / "a.txt").stat().st_mode & 0o777 == 0o644
