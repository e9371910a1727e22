import itertools
import json
import math
import re

import pytest

from trimtab.decoding import Candidates, Found, Trace, args, best_of_n, chunk_beam, deal, rejection, search
from trimtab.decoding.answer import Answer
from trimtab.decoding.found_file import found_from_dict, found_to_dict
from trimtab.decoding.trace import Node
from trimtab.evaluation.search_page import ACROSS, DOWN, LEFT, TOP, board_of, shown, write_search_page
from trimtab.policies.toy import Table
from trimtab.values import RewardValue

EVIL = '"><script>alert(1)</script>'
LENGTH = RewardValue(lambda completions, **_: [float(len(text)) for text in completions])


def answer(text, prompt="Why?"):
    return Answer(prompt, text, (0,), (0.0,), (0.0,), (0.0,), "end")


def node(number, parent, depth, score, kept=0, finish=None, text="x"):
    return Node(number, parent, depth, text, 1, score, kept, finish)


# Two boundaries: 0 and 1 are kept, in the order of their scores 1 and 0; each has two children; 4 is the best answer.
FOUND = Found(
    ((answer(" x", prompt=EVIL), 3.0), (answer(" y"), 1.0)),
    Trace(
        (
            node(0, None, 0, 0.0, kept=1),
            node(1, None, 0, 1.0, kept=1),
            node(2, None, 0, math.nan),
            node(3, 0, 1, -1.0),
            node(4, 0, 1, 3.0, kept=1, finish="end", text=EVIL),
            node(5, 1, 1, 1.0, kept=1, finish="length"),
            node(6, 1, 1, 0.5, finish="length"),
        )
    ),
)


def test_columns_are_boundaries_and_children_stay_with_their_parents():
    places = [(box.left, box.top) for box in board_of(FOUND).boxes]
    column = [LEFT, LEFT + ACROSS]
    row = [TOP + DOWN * i for i in range(4)]
    # first boundary: 1 before 0 before the one without a score; second: children of 1 (5, 6), then those of 0 (4, 3)
    assert places[:3] == [(column[0], row[1]), (column[0], row[0]), (column[0], row[2])]
    assert places[3:] == [(column[1], row[3]), (column[1], row[2]), (column[1], row[0]), (column[1], row[1])]


def test_colours_states_and_lines():
    board = board_of(FOUND)
    assert [box.share for box in board.boxes] == [0.25, 0.5, 0.5, 0.0, 1.0, 0.5, 0.375]  # scores from -1 to 3
    assert [box.side for box in board.boxes] == ["down", "", "", "down", "up", "", "down"]
    assert [box.strength for box in board.boxes][3:5] == ["1.00", "1.00"]
    assert [box.state for box in board.boxes] == ["kept", "kept", "dropped", "dropped", "best", "answer", "lesser"]
    assert [box.best for box in board.boxes] == [True, False, False, False, True, False, False]
    assert [line.state for line in board.lines] == ["dropped"] * 3 + ["kept"] * 2 + ["best"] * 2
    assert (board.lowest, board.highest) == ("\N{MINUS SIGN}1.000", "+3.000")


def test_the_page_loads_nothing_and_escapes_everything(tmp_path):
    page = write_search_page(tmp_path / "new" / "tree.html", [FOUND, FOUND], facts={EVIL: EVIL}).read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") >= 10
    assert not re.findall(r"<(?:script|link|iframe|img|object)|\son\w+=|@import|url\(", page)
    links = re.findall(r'href="([^"]*)"', page)
    ids = re.findall(r'id="([^"]*)"', page)
    assert all(link.startswith("#") for link in links) and {link[1:] for link in links} <= set(ids)
    assert len(ids) == len(set(ids)) == 2 * (1 + 7)
    assert "no score" in page and "the best answer" in page and "an answer, kept (length)" in page


def test_a_real_search_is_drawn_and_reads_back(tmp_path):
    table = Table.random(6, seed=0, end="t5")
    for shape in (chunk_beam(2, 3, 2), best_of_n(5), deal(2, 3, 2), rejection(4.0, 3, 2), args(3)):
        found = search(table, ["t1", "t2 t3"], LENGTH, shape, max_new_tokens=9, seed=3)
        written = json.loads(json.dumps([found_to_dict(each) for each in found]))
        assert [found_from_dict(each) for each in written] == found
        assert all(bool(each.kl) == isinstance(shape, Candidates) for each in found)
        page = write_search_page(tmp_path / "tree.html", found).read_text()
        assert page.count('class="box') == sum(len(each.trace.nodes) for each in found)


def test_the_way_is_that_of_the_best_answer():
    assert [each.number for each in FOUND.way] == [0, 4]
    table = Table.random(6, seed=0, end="t5")
    for seed, shape in itertools.product(range(5), (chunk_beam(2, 2, 2), args(3, 0.1))):
        (found,) = search(table, "t1", LENGTH, shape, max_new_tokens=9, seed=seed)
        assert sum(each.tokens for each in found.way) == len(found.best.token_ids)
        assert found.way[-1].score == found.hypotheses[0][1] == float(len(found.best.text))
        assert [each.parent for each in found.way] == [None, *(each.number for each in found.way[:-1])]


def test_deep_trees_need_no_recursion(tmp_path):
    from trimtab.cli.tree import tree_of

    deep = [
        node(i, i - 1 if i else None, i, float(i), kept=1, finish="end" if i == 2999 else None) for i in range(3000)
    ]
    found = Found(((answer(" x"), 2999.0),), Trace(tuple(deep)))
    assert len(board_of(found).columns) == 3000
    assert len(tree_of(found).children) == 1 and len(tree_of(found, everything=True).children) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [("a\n b", "a↵ b"), ("\x1b[2J", "\\x1b[2J"), ("\u202eback", "\\u202eback"), ("naïve 🙂", "naïve 🙂")],
)
def test_texts_are_shown_in_one_line(text, told):
    assert shown(text) == told
