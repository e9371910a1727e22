"""The vLLM engine: a policy file run by vLLM in this process, behind the protocol that all engines share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from trimtab.assets.store import Progress, silent
from trimtab.decoding.answer import Answer, Written
from trimtab.decoding.generate import to_answer
from trimtab.decoding.request import Request, Row, Settings
from trimtab.engines.abilities import VLLM, Abilities
from trimtab.engines.base import AS_REFERENCE, REFERENCE, Update, before_stops
from trimtab.engines.vllm.adapters import Adapters
from trimtab.engines.vllm.launch import engine_arguments
from trimtab.engines.vllm.layout import Layout, lay_out
from trimtab.engines.vllm.mixes import Mixes
from trimtab.engines.vllm.plan import VARIABLE
from trimtab.engines.vllm.push import check_pushable, push
from trimtab.engines.vllm.refusals import check_heads, check_targets
from trimtab.engines.vllm.scoring import score
from trimtab.engines.vllm.serve import on_cpu, require_vllm
from trimtab.engines.vllm.wording import broken, finish_of, log_probs_of, params_of
from trimtab.errors import ConfigError, PromptError, RunError, UsageError
from trimtab.policies.knob import bind
from trimtab.policies.policy_file import PolicyFile
from trimtab.policies.speller import Speller
from trimtab.policies.view import View, prompt_view, system_view
from trimtab.policies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from vllm import CompletionOutput, RequestOutput
    from vllm.lora.request import LoRARequest


@dataclass(frozen=True)
class _Asked:
    """One answer that vLLM is at work on."""

    ticket: int
    number: int
    request: Request
    settings: Settings
    streamed: bool
    adapter: int | None


class VLLMEngine:
    """Runs a policy file inside vLLM: its scheduler, its paged cache, tensor parallelism.

    Log-probs are the policy's at temperature 1; of its answers, :meth:`score` tells those under the reference. KL is
    not measured: vLLM does not give whole distributions. Seeds give the same answers again, but not those of the local
    engine: vLLM draws in its own way.

    Args:
        file: the policy file, or a layout of a policy that is in memory (``push.py``).
        arguments: vLLM's own, by their names in ``EngineArgs``, for instance ``{"tensor_parallel_size": 2}``.
        metered: whether the policy's reference is there to be asked: requests with the knobs
            :data:`~trimtab.engines.base.AS_REFERENCE` are answered by it. Where it is none of the policy's LMs it
            becomes one more.
        progress: told what is going on, one plain line at a time.

    Raises:
        ConfigError: vLLM is not installed or of another version, cannot run the policy, or refuses its arguments.
        ModelError: a model cannot be loaded.
        VocabularyError: the models speak different tokens.

    Example:
        >>> from trimtab import read_policy_file
        >>> from trimtab.engines.base import generate
        >>> engine = VLLMEngine(read_policy_file("policy.yaml"))  # doctest: +SKIP
        >>> generate(engine, ["The film was"], Settings(max_new_tokens=8))  # doctest: +SKIP
    """

    def __init__(
        self,
        file: PolicyFile | Layout,
        arguments: Mapping[str, Any] | None = None,
        *,
        metered: bool = False,
        progress: Progress = silent,
    ) -> None:
        require_vllm()
        layout = file if isinstance(file, Layout) else lay_out(file, metered=metered, progress=progress)
        check_heads(layout.plan.models, int((arguments or {}).get("tensor_parallel_size", 1)))
        self._layout, self._plan = layout, layout.plan.to_json()
        self._spare = int(metered)  # vLLM reads no text again without sampling one more token
        self._knobs = layout.plan.knobs if isinstance(file, Layout) else file.sketch().knobs
        self._view = _view(layout)
        self._room = tempfile.TemporaryDirectory(prefix="trimtab-mixes-")
        vectors = layout.vectors
        mixes = None if vectors is None else Mixes.load(vectors.folders, Path(self._room.name))
        if metered and mixes is not None:
            check_targets(mixes.targets)
        self._adapters = Adapters(mixes, layout.plan.models[0])
        os.environ[VARIABLE] = self._plan
        progress("starting vLLM")
        told = engine_arguments(layout.plan, mixes, dtype=layout.dtype, cpu=on_cpu()) | dict(arguments or {})
        try:
            self._vllm = _start(told)
        except BaseException:
            self._room.cleanup()
            raise
        self._open: dict[str, _Asked] = {}
        self._spellers: dict[str, Speller] = {}
        self._tickets = 0
        self._cancelled: list[Update] = []

    @property
    def abilities(self) -> Abilities:
        """vLLM's."""
        return VLLM

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that all LMs share."""
        return self._layout.vocabulary

    @property
    def busy(self) -> bool:
        """Whether answers are still to come."""
        return bool(self._open or self._cancelled)

    @property
    def engine(self) -> Any:
        """vLLM's own ``LLMEngine``."""
        return self._vllm

    def submit(self, request: Request, settings: Settings, *, stream: bool = False) -> int:
        """Take a request on.

        Raises:
            KnobError: a knob is unknown, or out of its range.
            PolicyError: every exponent is 0, or the reference is asked for and not there.
            PromptError: the prompt is empty, has unknown ids, or leaves no room for the answer.
            ConfigError: keywords, or settings that vLLM refuses or would understand otherwise.
        """
        from vllm.exceptions import VLLMClientError

        self._check(request, settings)
        if REFERENCE in request.knobs:
            prompt, extra, coefficients = list(request.prompt), dict(request.knobs), self._without_vectors()
        else:
            prompt, values = self._view.around(request.prompt), self._values(request)
            extra = {knob.name: values[knob.name] for knob in self._layout.plan.knobs}
            coefficients = self._coefficients(values)
        self._layout.plan.weights(extra)
        adapter = self._adapter(coefficients)
        os.environ[VARIABLE] = self._plan  # another engine of this process has another
        ticket = self._tickets
        self._tickets += 1
        told = _Asked(ticket, 0, request, settings, stream, adapter.lora_int_id if adapter else None)
        answers = {f"{ticket}.{number}": replace(told, number=number) for number in range(request.n)}
        self._open |= answers  # where vLLM has died they stay, and the next step says so
        try:
            for key, asked in answers.items():
                params = params_of(request, settings, asked.number, extra, self.vocabulary)
                self._vllm.add_request(key, {"prompt_token_ids": prompt}, params, lora_request=adapter)
        except (ValueError, VLLMClientError) as error:  # the second is none of the first
            self._drop(answers)
            raise ConfigError(
                given=f"a request that vLLM refuses: {error}", expected="one that it runs", hint="see its log"
            ) from error
        return ticket

    def cancel(self, ticket: int) -> None:
        """Let a request's answers go; they have no tokens then."""
        for asked in self._drop([key for key, asked in self._open.items() if asked.ticket == ticket]):
            prompt = self.vocabulary.decode(asked.request.prompt)
            gone = Answer(prompt, "", (), (), (), (), "cancelled")
            self._cancelled.append(Update(ticket, asked.number, "", gone))

    def step(self) -> list[Update]:
        """Run one step of vLLM.

        Raises:
            RunError: vLLM has died.
        """
        updates, self._cancelled = self._cancelled, []
        if not self._open:
            return updates
        return updates + [update for each in self._outputs() if (update := self._update(each)) is not None]

    def score(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, ...]]:
        """Return what the tokens of answers cost under the reference, in nats, at temperature 1 and without cuts.

        Args:
            texts: prompts and the answers to them, in token ids. vLLM reads them again, many at a time.

        Raises:
            UsageError: answers are still to come.
            PolicyError: the engine was not started with the reference.
            RunError: vLLM has died.
        """
        if self.busy:
            raise UsageError(given="a busy engine", expected="one without open requests", hint="step() to their end")
        self._layout.plan.weights(AS_REFERENCE)
        os.environ[VARIABLE] = self._plan
        return score(self._vllm, texts, self._adapter(self._without_vectors()), self._outputs)

    def push(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace weights of an LM in place, and forget all prefixes, whose keys and values are of the old ones.

        Args:
            number: which of the LMs, in the plan's order.
            tensors: by the names of the LM's own files; see ``weights_of``.

        Raises:
            UsageError: answers are still to come.
            ConfigError: vLLM was not started for it.
            RunError: vLLM has died, or keeps prefixes.
        """
        if self.busy:
            raise UsageError(given="a busy engine", expected="one without open requests", hint="step() to their end")
        check_pushable(self._vllm.vllm_config, cpu=on_cpu())
        file = Path(self._room.name) / "weights.safetensors"
        save_file(dict(tensors), file)
        push(self._vllm, f"lm{number}", file)
        file.unlink()

    def close(self) -> None:
        """Stop vLLM and delete the adapters of mixes."""
        self._vllm.engine_core.shutdown()
        self._room.cleanup()

    def _drop(self, keys: Iterable[str]) -> list[_Asked]:
        """Take answers back from vLLM."""
        dropped = list(keys)
        self._vllm.abort_request(dropped)
        for key in dropped:
            self._spellers.pop(key, None)
        return [self._open.pop(key) for key in dropped]

    def _outputs(self) -> list[RequestOutput]:
        """Run one step of vLLM."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            outputs: list[RequestOutput] = self._vllm.step()
        except EngineDeadError as error:
            raise RunError(given="vLLM, which has died", expected="a running engine", hint="see its log") from error
        return outputs

    def _check(self, request: Request, settings: Settings) -> None:
        """Refuse what vLLM cannot do, or does otherwise."""
        if request.alternatives is not None:
            raise ConfigError(
                given="details of every token on vLLM, which tells the log-probability of what it picked alone",
                expected="no details",
                hint="run it with the local engine",
            )
        if request.keywords is not None:
            raise ConfigError(
                given="keywords on vLLM",
                expected="no keywords",
                hint="run it with the local engine, which masks tokens",
            )
        if settings.sampling.min_p > 0 and settings.sampling.top_p < 1:
            raise ConfigError(
                given=f"min_p={settings.sampling.min_p:g} with top_p={settings.sampling.top_p:g} on vLLM",
                expected="one of them: vLLM cuts by min_p before top_p, and trimtab after it",
                hint="leave one out",
            )
        if (
            settings.sampling.temperature > 0
            and on_cpu()
            and self._vllm.vllm_config.scheduler_config.enable_chunked_prefill
        ):
            raise ConfigError(
                given="sampling on a CPU with prompts that are read in pieces, where vLLM ends at the first seed",
                expected="prompts that are read whole, or temperature 0",
                hint="leave enable_chunked_prefill out",
            )
        size, limit = self.vocabulary.size, self._vllm.model_config.max_model_len
        if not request.prompt or not all(0 <= token < size for token in request.prompt):
            raise PromptError(
                given=f"a prompt of {len(request.prompt)} ids, {list(request.prompt[:8])}...",
                expected=f"at least one token id, each from 0 to {size - 1}",
                hint="encode the prompt with the engine's own vocabulary",
            )
        if wrong := [token for token in settings.stop_ids if not 0 <= token < size]:
            raise ConfigError(
                given=f"the stop id {wrong[0]}", expected=f"token ids from 0 to {size - 1}", hint="drop it"
            )
        length = len(self._view.around(request.prompt))
        if length + settings.max_new_tokens + self._spare > limit:
            raise PromptError(
                given=f"a prompt of {length} tokens with {settings.max_new_tokens} new tokens",
                expected=f"at most {limit - self._spare} tokens together, by vLLM's max_model_len",
                hint="shorten the prompt, lower max_new_tokens, or raise max_model_len",
            )

    def _values(self, request: Request) -> dict[str, float]:
        """Return the values of all knobs."""
        return {name: float(value[0]) for name, value in bind(self._knobs, [request.knobs]).items()}

    def _coefficients(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the coefficients of vectors under these values of knobs."""
        vectors = self._layout.vectors
        bound = {name: torch.tensor([value]) for name, value in values.items()}
        return {} if vectors is None else {name: float(c.values(bound)) for name, c in vectors.coefficients.items()}

    def _without_vectors(self) -> dict[str, float]:
        """Return coefficients that leave every vector out."""
        return {} if self._layout.vectors is None else dict.fromkeys(self._layout.vectors.coefficients, 0.0)

    def _adapter(self, coefficients: Mapping[str, float]) -> LoRARequest | None:
        """Return the LoRA of a request's coefficients, or None where the policy has no vectors."""
        return self._adapters.of(coefficients, {each.adapter for each in self._open.values() if each.adapter})

    def _update(self, output: RequestOutput) -> Update | None:
        """Tell what came of an answer: its end, or what it has so far where that is asked for."""
        asked = self._open.get(output.request_id)
        if asked is None:  # cancelled while the step ran
            return None
        (said,) = output.outputs
        if not output.finished:
            return self._tell(output.request_id, asked, said) if asked.streamed else None
        del self._open[output.request_id]
        speller = self._spellers.pop(output.request_id, None)
        tokens = list(said.token_ids)
        row = Row(
            asked.request,
            asked.number,
            tokens,
            log_probs_of(said),
            reference_log_probs=[],
            kl=[],
            finish=finish_of(said.finish_reason, said.stop_reason, self.vocabulary.end_ids),
        )
        answer = to_answer(row, self.vocabulary.decode(asked.request.prompt), self.vocabulary, asked.settings)
        pieces = () if speller is None else speller.of(tokens)
        error = broken(said.finish_reason) if answer.finish_reason == "error" else None
        return Update(asked.ticket, asked.number, answer.text, answer, error, pieces=pieces)

    def _tell(self, key: str, asked: _Asked, said: CompletionOutput) -> Update:
        """Tell what an unfinished answer has."""
        speller = self._spellers.setdefault(key, Speller(self.vocabulary))
        pieces = speller.of(said.token_ids)
        written = Written(tuple(said.token_ids), tuple(log_probs_of(said)))
        text = before_stops(speller.text, asked.settings.stop)
        return Update(asked.ticket, asked.number, text, written=written, pieces=pieces)


def _view(layout: Layout) -> View:
    """Return what stands around every prompt."""
    if layout.system is not None:
        return system_view(layout.vocabulary, layout.system)
    return View() if layout.prompt is None else prompt_view(layout.vocabulary, layout.prompt)


def _start(arguments: dict[str, Any]) -> Any:
    """Start vLLM."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    try:
        return LLMEngine.from_engine_args(EngineArgs(**arguments))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            given=f"arguments that vLLM refuses: {error}", expected="arguments of EngineArgs", hint="see its log"
        ) from error
