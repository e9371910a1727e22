import pytest

from trimtab.assets.journal import Journal
from trimtab.errors import ConfigError


def test_rows_come_back_in_their_order_and_more_are_added(tmp_path):
    path = tmp_path / "new" / "j.jsonl"
    Journal(path, {"a": (1, 2)}, "sweep").add([{"x": 1}, {"x": "a\u2028b"}])
    again = Journal(path, {"a": [1, 2]}, "sweep")
    again.add([{"x": 3}])
    assert again.rows == [{"x": 1}, {"x": "a\u2028b"}, {"x": 3}] == Journal(path, {"a": [1, 2]}, "sweep").rows


def test_a_last_line_that_was_cut_short_is_dropped(tmp_path):
    path = tmp_path / "j.jsonl"
    Journal(path, {}, "search").add([{"x": 1}])
    path.write_text(path.read_text() + '{"x": ')
    Journal(path, {}, "search").add([{"x": 2}])
    assert Journal(path, {}, "search").rows == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "damaged"),
        ('{"about": {}', "damaged"),
        ("no json\n", "damaged"),
        ('{"about": {}}\nno json\n', "damaged"),
        ('{"rows": 1}\n', "damaged"),
        ('{"about": {"seed": 1, "n": 2}}\n', "a sweep with another seed"),
    ],
)
def test_what_is_no_journal_or_another_is_refused(tmp_path, text, told):
    path = tmp_path / "j.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        Journal(path, {"seed": 0, "n": 2}, "sweep")
    assert path.read_text() == text
