"""The legacy model runner's way for exponents to reach the model, and the front end's check of what requests ask for.

vLLM tells a logits processor which request is in which row of its batch before it runs the model. This one keeps the
rows' exponents and leaves the logits alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm.exceptions import VLLMValidationError
from vllm.forward_context import get_forward_context
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

from trimtab.engines.vllm.plan import Plan, knobs_in, plan_of_environment
from trimtab.errors import TrimtabError

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

_PLACE = "trimtab.rows"


class RowExponents(LogitsProcessor, LogitsProcessorV2):
    """The exponents of the rows of a batch, shape (rows, number of LMs), float32; one table an engine.

    Model runner V2 keeps its own (see :mod:`.state`); there only :meth:`validate_params` is used.
    """

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request whose knobs are wrong, in the front end, where it harms nobody else.

        Raises:
            VLLMValidationError: an unknown knob, or a value that is no number in its range; it becomes a status 400.
        """
        try:
            plan_of_environment().weights(knobs_in(sampling_params.extra_args))
        except TrimtabError as error:
            raise VLLMValidationError(str(error)) from error

    def __init__(self, vllm_config: VllmConfig, *arguments: Any) -> None:
        """Make the table; what else vLLM passes differs between its runners."""
        self.plan = Plan.from_json(vllm_config.model_config.hf_config.trimtab)
        rows, device = vllm_config.scheduler_config.max_num_seqs, vllm_config.device_config.device
        self.here = torch.zeros(rows, len(self.plan.models))
        self.table = self.here.to(device or "cpu", copy=True)
        vllm_config.compilation_config.static_forward_context[_PLACE] = self

    def is_argmax_invariant(self) -> bool:
        """It changes no logits."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the rows of the batch: first those that left, then new ones, then moves."""
        if batch_update is None:
            return
        for row, params, _, _ in batch_update.added:
            self.here[row] = torch.tensor(self.plan.weights(knobs_in(params.extra_args)))
        for start, end, direction in batch_update.moved:
            if direction is MoveDirectionality.SWAP:
                self.here[[start, end]] = self.here[[end, start]]
            else:
                self.here[end] = self.here[start]
        self.table.copy_(self.here)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Tell model runner V2 that there is nothing to apply."""
        return False

    def apply(self, logits: Tensor, *context: Any) -> Tensor:
        """Leave the logits alone."""
        return logits


def exponents_of_tokens(tokens: int, models: int, device: torch.device) -> Tensor:
    """Return the exponents of each token of the running batch, from the row it is in; zeros in a dry run.

    Args:
        tokens: T, of all rows, one row after another; padding behind them.
        models: number of LMs.
        device: where they are needed.
    """
    context = get_forward_context()
    if not context.attn_metadata:
        return torch.zeros(tokens, models, device=device)
    assert isinstance(context.attn_metadata, dict)  # a list in micro-batches, which are refused at the start
    starts = next(iter(context.attn_metadata.values())).query_start_loc
    places = torch.arange(tokens, device=starts.device)
    rows = torch.searchsorted(starts[1:].contiguous(), places, right=True)
    table: Tensor = context.no_compile_layers[_PLACE].table
    return table[rows.clamp_(max=len(table) - 1).to(table.device)]
