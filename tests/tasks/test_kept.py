"""Stages that are kept: used again, made again, or refused."""

import pytest

from trimtab.errors import ConfigError
from trimtab.tasks.kept import digest, kept
from trimtab.training.settings import Section


class Number(Section):
    value: float


def never():
    raise AssertionError("asked again")


def test_a_stage_is_asked_once(tmp_path):
    path = tmp_path / "new" / "stage.json"
    assert kept(path, Number, {"pair": (1, 2)}, lambda: Number(value=0.1)) == Number(value=0.1)
    assert kept(path, Number, {"pair": (1, 2)}, never) == Number(value=0.1)
    assert [each.name for each in path.parent.iterdir()] == ["stage.json"]


def test_other_settings_replace_or_are_refused(tmp_path):
    path = tmp_path / "stage.json"
    kept(path, Number, {"a": 1, "b": 2}, lambda: Number(value=1))
    with pytest.raises(ConfigError, match="another b, c"):
        kept(path, Number, {"a": 1, "c": 2}, never, costly=True)
    assert kept(path, Number, {"a": 2}, lambda: Number(value=2)).value == 2
    assert kept(path, Number, {"a": 2}, never, costly=True).value == 2


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    path = tmp_path / "stage.json"
    with pytest.raises(AssertionError):
        kept(path, Number, {}, never)
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"about": {}}', '{"about": {}, "found": {"value": "x"}}', "\xff"])
def test_damaged_files_are_refused(tmp_path, text):
    path = tmp_path / "stage.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="damaged"):
        kept(path, Number, {}, never)


def test_files_are_named_by_content(tmp_path):
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
