import pytest
from transformers.utils import logging

from trimtab.assets import quiet_transformers


@pytest.mark.parametrize("bars", [True, False])
def test_the_settings_are_restored_even_after_an_error(bars: bool) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_info()
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        with pytest.raises(ZeroDivisionError), quiet_transformers():
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
            _ = 1 / 0
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled() is bars
    finally:
        logging.set_verbosity(before[0])
        (logging.enable_progress_bar if before[1] else logging.disable_progress_bar)()
