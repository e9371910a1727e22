"""One token for every row as a CUDA graph: the same shapes and addresses every time, replayed without Python.

A graph belongs to one storage of keys and values and to rows with the same adapters at the same strengths, and is
captured when that combination has been stepped a few times. Its first result is compared with the plain step's.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from trimtab.policies.cache import Layers, Rows
from trimtab.policies.decoder import Decoder, FixedContext
from trimtab.policies.scales import Scales
from trimtab.policies.slots import Slots

_PATIENCE = 4
"""Steps of a kind before it is captured."""


class FixedStep:
    """A step in fixed shapes: inputs are copied to where the step reads them.

    Args:
        decoder: the lean pass.
        rows: rows like those that will be stepped.
        scales: how strongly they use which adapters.
    """

    def __init__(self, decoder: Decoder, rows: Rows, scales: Scales) -> None:
        self._decoder, self._size, self.slots, self._shared = decoder, len(rows), rows.slots, rows.shared
        self._layers: Layers = rows.layers(rows.slots.capacity)
        device = rows.slots.device
        capacity = rows.slots.capacity
        self._use = decoder.use(scales, 1)
        decoder.reach(capacity + (0 if rows.shared is None else rows.shared.width))
        with torch.inference_mode(False):  # what is made in inference mode cannot be written outside it
            self._tokens = torch.zeros((self._size, 1), dtype=torch.long, device=device)
            self._lengths = torch.zeros(self._size, dtype=torch.long, device=device)
            self._place = torch.zeros((self._size, 1), dtype=torch.long, device=device)
            self._seen = torch.zeros((self._size, capacity), dtype=torch.bool, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None

    def run(self, rows: Rows, tokens: Tensor) -> Tensor:
        """Feed one token to every row, (N, 1), whose slot is there already; logits (N, 1, columns)."""
        self._fill(rows, tokens)
        if self._graph is None or self._logits is None:
            logits = self._step()
        else:
            self._graph.replay()
            logits = self._logits.clone()
        self.slots.poison(logits.isnan().any())
        return logits

    def capture(self) -> None:
        """Record the step on the inputs it was run with last."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._step()  # what is set up at a first run must not be recorded
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._step()
        self._graph = graph

    def _fill(self, rows: Rows, tokens: Tensor) -> None:
        self._tokens.copy_(tokens)
        self._lengths.copy_(rows.lengths - 1, non_blocking=True)
        self._place.copy_(rows.ends[:, None] - 1, non_blocking=True)
        self._seen.copy_(rows.seen(self.slots.capacity))

    def _step(self) -> Tensor:
        where = FixedContext(self._lengths, self._place, self._seen, self._shared)
        return self._decoder.one_token(self._tokens, self._layers, self._use, where)


class Graphs:
    """The graph of the latest kind of step of a trunk."""

    def __init__(self) -> None:
        self._kind: tuple[Decoder, Slots, int, Scales] | None = None
        self._steps = 0
        self._fixed: FixedStep | None = None
        self._broken = False

    def run(self, decoder: Decoder, rows: Rows, scales: Scales, tokens: Tensor) -> Tensor | None:
        """Feed one token to every row, (N, 1), or return None where the plain step should.

        Args:
            decoder: the lean pass.
            rows: the rows, the tokens' slots included.
            scales: how strongly they use which adapters.
            tokens: token ids.
        """
        if self._broken or tokens.shape[1] != 1 or tokens.device.type != "cuda":
            return None
        decoder.use(scales, 1)  # reads adapters again that have been changed
        kind = (decoder, rows.slots, decoder.version, scales)
        if kind != self._kind:
            self._kind, self._steps, self._fixed = kind, 0, None
        self._steps += 1
        if self._steps < _PATIENCE:
            return None
        if self._fixed is None:
            return self._captured(decoder, rows, scales, tokens)
        return self._fixed.run(rows, tokens)

    def _captured(self, decoder: Decoder, rows: Rows, scales: Scales, tokens: Tensor) -> Tensor | None:
        """Capture a graph and compare its first result with the plain step's."""
        fixed = FixedStep(decoder, rows, scales)
        self._kind = (decoder, fixed.slots, decoder.version, scales)
        plain = fixed.run(rows, tokens)
        try:
            fixed.capture()
        except RuntimeError as error:
            self._broken = True
            warnings.warn(f"steps are not captured as CUDA graphs, decoding is slower: {error}", stacklevel=2)
            return plain
        replayed = fixed.run(rows, tokens)
        if not torch.allclose(plain, replayed, rtol=1e-2, atol=1e-2, equal_nan=True):
            self._broken = True
            warnings.warn("a captured step differs from the plain one; CUDA graphs are not used", stacklevel=2)
            return plain
        self._fixed = fixed
        return replayed
