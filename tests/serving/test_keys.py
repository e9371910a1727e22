"""Keys: hashes only, and nothing weak or mistyped."""

import hashlib
import os

import pytest

from trimtab.errors import ConfigError
from trimtab.serving.keys import Keys

KEY = "correct-horse-battery"


def test_a_key_opens_and_nothing_else_does():
    keys = Keys.of([KEY, "another-key-of-some-length"])
    assert keys.opens(KEY) and keys.opens("another-key-of-some-length")
    for wrong in ("", KEY[:-1], KEY + " ", KEY.upper(), "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()):
        assert not keys.opens(wrong)
    assert not Keys().opens("") and not Keys()


def test_a_hash_stands_for_its_key():
    keys = Keys.of(["sha256:" + hashlib.sha256(KEY.encode()).hexdigest()])
    assert keys.opens(KEY)


def test_no_key_is_ever_shown():
    keys = Keys.of([KEY])
    assert KEY not in repr(keys) + str(vars(keys))


@pytest.mark.parametrize(
    "weak", ["short", "has a space in it, though long", "ünïcode-ünïcode-ünïcode", "sha256:" + "a" * 63, "tab\t" * 8]
)
def test_weak_and_mistyped_keys_are_refused_without_being_told(weak):
    with pytest.raises(ConfigError) as caught:
        Keys.of([weak])
    assert weak not in str(caught.value)


def test_a_file_has_a_key_a_line(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# mine\n{KEY}\n\n  another-key-of-some-length  \n")
    assert Keys.read(path).opens("another-key-of-some-length") and len(Keys.read(path).hashes) == 2


@pytest.mark.parametrize("content", [b"# none\n\n", b"\xff\xfe", None])
def test_a_file_without_keys_is_refused(tmp_path, content):
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=os.fspath(path)):
        Keys.read(path)


def test_keys_add_up():
    both = Keys.of([KEY]) + Keys.of(["another-key-of-some-length"])
    assert both.opens(KEY) and both.opens("another-key-of-some-length")
