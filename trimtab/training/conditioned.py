"""Which LM of a policy file needs a stream of its own, and the file with another in its place. Loads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError
from trimtab.policies.expression import names
from trimtab.policies.guide_folder import read_guide_file
from trimtab.policies.model_source import ModelSource
from trimtab.policies.policy_file import PolicyFile, read_policy_file
from trimtab.policies.sketch import Sketch


@dataclass(frozen=True)
class Conditioned:
    """An LM that starts from a control token, or sees a prompt in another way than the other LMs of its policy.

    Args:
        file: the policy file.
        name: of the LM in it.
        common: an LM whose view all the others share, or None where they differ or there are none.
    """

    file: PolicyFile
    name: str
    common: ModelSource | None

    @staticmethod
    def find(path: Path, wanted: str | None = None) -> Conditioned:
        """Find it in a policy file.

        Args:
            path: of the file.
            wanted: its name, where there are several.

        Raises:
            ConfigError: the file is wrong, there is no such LM in it, or several and none is named.
            ModelError: a folder holds an adapter that does not say what its base is.
        """
        file = read_policy_file(path)
        mentioned = {name: file.models[name] for name in names(file.policy) if name in file.models}
        models = {name: source for name, source in mentioned.items() if isinstance(source, ModelSource)}
        if endpoints := [name for name in mentioned if name not in models]:
            raise ConfigError(
                given=f"{path}, in which {endpoints[0]} is behind an endpoint",
                expected="models that are here: many answers of the policy are sampled, and read at every token",
                hint="put a smaller model of the same tokenizer in its place",
            )
        sketches = {
            name: Sketch.read(model.source, system=model.system, prompt=model.prompt) for name, model in models.items()
        }
        views = {sketch.view for sketch in sketches.values()}
        # A view that all LMs have is a part of the prompt.
        found = [name for name, each in sketches.items() if each.control or (each.view is not None and len(views) > 1)]
        if not found or wanted not in (None, *found) or (wanted is None and len(found) > 1):
            raise _refused(path, found, wanted)
        name = wanted or found[0]
        others = {sketches[other].view: models[other] for other in models if other != name}
        return Conditioned(file, name, next(iter(others.values())) if len(others) == 1 else None)

    @property
    def model(self) -> ModelSource:
        """Where it comes from, and what it sees."""
        model = self.file.models[self.name]
        assert isinstance(model, ModelSource)  # files with endpoints are refused
        return model

    @property
    def about(self) -> dict[str, Any]:
        """What training wrote about it; nothing of a plain model."""
        return read_guide_file(Path(self.model.source))

    def replaced(self, source: str) -> PolicyFile:
        """Return the file with another LM in its place, which sees what the others see.

        Args:
            source: of the other LM.
        """
        seen = {} if self.common is None else {"system": self.common.system, "prompt": self.common.prompt}
        models = {**self.file.models, self.name: ModelSource(source=source, **seen)}
        return self.file.model_copy(update={"models": models})


def _refused(path: Path, found: list[str], wanted: str | None) -> ConfigError:
    if not found:
        return ConfigError(
            given=f"{path}, in which no LM needs a stream of its own",
            expected="one that starts from a control token, or has a system prompt or prompt that the others have not",
            hint=f"there is nothing to absorb; see `trimtab doctor {path}`",
        )
    return ConfigError(
        given=f"{path} and guide={wanted!r}" if wanted else f"{path}, in which several LMs need streams of their own",
        expected=f"guide: {' or '.join(found)}",
        hint="absorb one after the other, each from the policy.yaml that the one before has written",
    )
