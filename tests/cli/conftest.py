"""Running a command line in the test's own process."""

import io
import json
import sys
from dataclasses import dataclass

import pytest

from trimtab.cli.main import run


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def trimtab(monkeypatch, capsys):
    """Return a function that runs ``trimtab ARGUMENTS...`` as the console script does."""

    def call(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            run()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return call
