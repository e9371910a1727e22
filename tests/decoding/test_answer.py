"""Answers whose costs nobody measured say so."""

import pytest

from trimtab.decoding.answer import Answer
from trimtab.errors import UsageError


def test_a_kl_that_was_not_measured_is_no_number():
    assert Answer("p", "a b", (0, 1), (-1.0,) * 2, (-1.0,) * 2, (0.5, 0.1), "length").mean_kl == pytest.approx(0.3)
    with pytest.raises(UsageError, match="an answer of 2 tokens, for which none was measured"):
        _ = Answer("p", "a b", (0, 1), (), (), (), "length").mean_kl
    with pytest.raises(UsageError, match="of 0 tokens"):
        _ = Answer("p", "", (), (), (), (), "cancelled").mean_kl
