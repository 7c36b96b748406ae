"""A training step captured once as a CUDA graph and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Steps run before capture, so that libraries and the allocator are warm
# (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
_WARM_UP = 3


class CapturedStep:
    """Replay `update(index, scale)` without launching its kernels one by one.

    The step must have fixed shapes and no host synchronization: a fixed solver grid,
    and an optimizer whose state lives in place on the device.

    Parameters
    ----------
    update : callable
        Takes the batch's positions (or None) and the schedule's factor, both tensors
        on the device, and returns the loss of each member.
    index : Tensor or None
        The first batch's positions.
    device : torch.device
        A CUDA device.
    """

    def __init__(
        self,
        update: Callable[[Tensor | None, Tensor], Tensor],
        index: Tensor | None,
        device: torch.device,
    ) -> None:
        self._update = update
        self._index = None if index is None else index.clone()
        self._scale = torch.zeros((), device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Tensor | None = None
        self._calls = 0

    def __call__(self, index: Tensor | None, scale: float) -> Tensor:
        """Make one step; the first few run plainly."""
        self._scale.fill_(scale)
        if self._index is not None:
            assert index is not None
            self._index.copy_(index)
        self._calls += 1
        if self._calls <= _WARM_UP:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                output = self._update(self._index, self._scale)
            torch.cuda.current_stream().wait_stream(stream)
            return output
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = self._update(self._index, self._scale)
        self._graph.replay()
        assert self._output is not None
        return self._output
