"""Parameters of several networks of one shape, as one matrix."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from skfunc._shapes import Float

# Modules that a user brings draw from torch's global generator, which threads share.
_GLOBAL_GENERATOR = threading.Lock()


class MemberStack:
    """M networks of one shape: one module, and its parameters as a matrix (M, P).

    The module computes all members at once when its parameters are bound to tensors
    with a leading member axis. They stay bound, so that a backward pass which calls the
    module again (checkpointing, the adjoint) meets the same tensors. One flat matrix
    makes an optimizer step a handful of operations, whatever the number of layers.

    Parameters
    ----------
    build : callable
        Returns a new module.
    draw : callable
        Draws a module's initial parameters in place from a `torch.Generator`.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        draw: Callable[[nn.Module, torch.Generator], None] | None = None,
    ) -> None:
        self._build = build
        self._draw = draw
        self.module = self._new_module(seed=0)
        named = dict(self.module.named_parameters())
        self.shapes = {name: tuple(value.shape) for name, value in named.items()}
        self.sizes = [value.numel() for value in named.values()]
        self.n_parameters = sum(self.sizes)
        # A parameter that a user's module ties to two places is bound in both.
        self._owners: dict[str, list[tuple[nn.Module, str]]] = {n: [] for n in named}
        names = {id(value): name for name, value in named.items()}
        for path, value in self.module.named_parameters(remove_duplicate=False):
            folder, _, leaf = path.rpartition(".")
            owner = self.module.get_submodule(folder)
            self._owners[names[id(value)]].append((owner, leaf))

    def _new_module(self, seed: int) -> nn.Module:
        with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._build()

    def initial(self, seeds: Sequence[int]) -> Float[Tensor, "members parameters"]:
        """Draw the initial parameters of one member per seed."""
        rows = []
        for seed in seeds:
            module = self._new_module(seed)
            if self._draw is not None:
                self._draw(module, torch.Generator().manual_seed(seed))
            values = [value.detach().flatten() for value in module.parameters()]
            rows.append(torch.cat(values).double())
        return torch.stack(rows)

    def weight_mask(self) -> Float[Tensor, " parameters"]:
        """Return 1 for entries of matrices and kernels, 0 for biases and scales."""
        return torch.cat(
            [
                torch.full((size,), float(len(shape) >= 2), dtype=torch.float64)
                for size, shape in zip(self.sizes, self.shapes.values(), strict=True)
            ]
        )

    def split(self, flat: Float[Tensor, "members parameters"]) -> dict[str, Tensor]:
        """Return views of the matrix with the parameters' shapes."""
        members = flat.shape[0]
        parts = flat.split(self.sizes, dim=1)
        return {
            name: part.reshape(members, *shape)
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    def bind(self, flat: Float[Tensor, "members parameters"]) -> nn.Module:
        """Let the module compute with these parameters, and return it."""
        for name, value in self.split(flat).items():
            for module, leaf in self._owners[name]:
                module._parameters[leaf] = value  # type: ignore[assignment]
        return self.module
