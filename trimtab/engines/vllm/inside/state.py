"""Model runner V2's way for exponents to reach the model: an input of its own, beside the token ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.states import RequestState

from trimtab.engines.vllm.plan import Plan, knobs_in


class ExponentState(DefaultModelState):
    """Keeps the exponents of the requests, and lays them out by token before each step.

    The tokens' exponents stand in one tensor that never moves, as captured graphs need it.
    """

    def __init__(
        self, vllm_config: VllmConfig, model: nn.Module, encoder_cache: EncoderCache | None, device: torch.device
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self.plan = Plan.from_json(vllm_config.model_config.hf_config.trimtab)
        count = len(self.plan.models)
        self.here = torch.zeros(self.max_num_reqs, count, pin_memory=device.type == "cuda")
        self.table = torch.zeros(self.max_num_reqs, count, device=device)
        self.tokens = torch.zeros(self.max_num_tokens, count, device=device)
        self.changed = False

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        """Take a request's exponents on."""
        super().add_request(req_index, new_req_data)
        params = new_req_data.sampling_params
        assert params is not None  # only pooling models have none
        self.here[req_index] = torch.tensor(self.plan.weights(knobs_in(params.extra_args)))
        self.changed = True

    def apply_staged_writes(self) -> None:
        """Copy what is new to the device."""
        super().apply_staged_writes()
        if self.changed:
            self.table.copy_(self.here)
            self.changed = False

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        """Return the model's inputs with the exponents of each token."""
        prepared: dict[str, Any] = super().prepare_inputs(input_batch, req_states)
        return prepared | {"exponents": self._lay_out(input_batch)}

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """Return inputs of a dry run, on the tensor that steps will use."""
        prepared: dict[str, Any] = super().prepare_dummy_inputs(num_reqs, num_tokens)
        return prepared | {"exponents": self.tokens[:num_tokens]}

    def _lay_out(self, batch: InputBatch) -> Tensor:
        """Write the exponents of each token, by the row of the batch it is in and the request in that row."""
        total = batch.num_tokens_after_padding
        places = torch.arange(total, device=self.table.device)
        rows = torch.searchsorted(batch.query_start_loc[1 : batch.num_reqs + 1], places, right=True)
        requests = batch.idx_mapping[rows.clamp_(max=batch.num_reqs - 1)]
        torch.index_select(self.table, 0, requests.long(), out=self.tokens[:total])
        return self.tokens[:total]
