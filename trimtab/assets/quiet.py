"""Loading with transformers without its progress bars and advice; errors still raise, and the settings are restored."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bars and log lines of transformers and of the hub's client inside a ``with`` block.

    Example:
        >>> with quiet_transformers():
        ...     pass
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # the hub's bars too
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence warnings that tell nothing when adapters are added, inside a ``with`` block.

    Example:
        >>> with quiet_peft():
        ...     pass
    """
    with warnings.catch_warnings():
        # peft reads an attribute that transformers has renamed; both still work.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # peft finds out by itself which layers keep their weights the other way round, and sets it right.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        yield
