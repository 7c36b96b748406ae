"""Full-batch gradient descent of several finite networks in one pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from skfunc._shapes import Float
from skfunc.infinite_width._layers_base import Layer
from skfunc.infinite_width._layers_linear import Dense
from skfunc.infinite_width._layers_networks import chain
from skfunc.training import MemberStack

# A stable descent lowers the loss: one this many times above its start diverges. Wide
# networks may rise a little and settle, which this leaves room for.
_DIVERGED = 10.0
_MOST_RETRIES = 3


class FiniteNetworks:
    """M finite networks of one shape, computed side by side.

    Parameters
    ----------
    net : Layer
        The architecture; it ends in Dense.
    width : int
        Units of hidden layers, channels of convolutions.
    n_features : int
        Columns of the data.
    image_shape : tuple of int or None
        (channels, height, width).
    n_outputs : int
        Outputs of the last layer.
    last_only : bool
        Whether the last layer alone is trained.
    """

    def __init__(
        self,
        net: Layer,
        width: int,
        n_features: int,
        image_shape: tuple[int, int, int] | None,
        n_outputs: int,
        last_only: bool = False,
    ) -> None:
        layers = chain(net)
        if not layers or not isinstance(layers[-1], Dense):
            raise ValueError(f"the architecture must end in Dense; got {net!r}")
        self.net = net
        self.image_shape = image_shape
        self._build = lambda seed: net.to_module(
            width, n_features, image_shape, n_outputs, seed, torch.float64
        )
        # Parameters are always given: the module itself needs no memory.
        with torch.device("meta"):
            self._stack = MemberStack(lambda: self._build(0))
        self._module = self._stack.module
        self._head_prefix = f"{len(layers) - 1 + (image_shape is not None)}."
        # Without layers below that have parameters, the last layer is all there is.
        self._last_only = last_only and not all(
            name.startswith(self._head_prefix) for name in self._stack.shapes
        )
        self.n_parameters = self._stack.n_parameters

    def initial(self, seeds: Sequence[int]) -> Float[Tensor, "members parameters"]:
        """Draw the initial parameters of one member per seed."""
        rows = []
        for seed in seeds:
            values = self._build(seed).parameters()
            rows.append(torch.cat([value.detach().flatten() for value in values]))
        return torch.stack(rows)

    def outputs(
        self, flat: Float[Tensor, "members parameters"], rows: Tensor
    ) -> Float[Tensor, "members rows outputs"]:
        """Return every member's outputs for rows that all share."""
        return _call(self._module, self._stack.split(flat), rows, shared=True)

    def split(
        self, flat: Float[Tensor, "members parameters"], rows: Tensor, chunk: int
    ) -> tuple[dict[str, Tensor], Callable[[dict[str, Tensor], slice], Tensor]]:
        """Return what is trained, and the outputs of some rows as a function of it.

        When only the last layer is trained, what it reads is computed once.
        """
        named = self._stack.split(flat)
        if not self._last_only:
            trained = {name: value.clone() for name, value in named.items()}
            return trained, lambda parameters, some: _call(
                self._module, parameters, rows[some], shared=True
            )
        prefix = self._head_prefix
        body = {n: value for n, value in named.items() if not n.startswith(prefix)}
        children = list(self._module.children())
        below, head = nn.Sequential(*children[:-1]), children[-1]
        with torch.no_grad():
            hidden = torch.cat(
                [
                    _call(below, body, rows[start : start + chunk], shared=True)
                    for start in range(0, len(rows), chunk)
                ],
                dim=1,
            )
        trained = {
            name.removeprefix(prefix): value.clone()
            for name, value in named.items()
            if name.startswith(prefix)
        }
        return trained, lambda parameters, some: _call(
            head, parameters, hidden[:, some], shared=False
        )

    def join(
        self, flat: Float[Tensor, "members parameters"], trained: dict[str, Tensor]
    ) -> Float[Tensor, "members parameters"]:
        """Return the matrix with the trained parameters in their places."""
        prefix = self._head_prefix if self._last_only else ""
        named = self._stack.split(flat)
        named |= {prefix + name: value for name, value in trained.items()}
        return torch.cat([value.flatten(1) for value in named.values()], dim=1)


def _call(
    module: nn.Module, parameters: dict[str, Tensor], rows: Tensor, *, shared: bool
) -> Tensor:
    """Return outputs of all members, of rows that are shared or have a member axis."""

    def member(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, values, (x,))

    return vmap(member, in_dims=(0, None if shared else 0))(parameters, rows)


@dataclass
class Descent:
    """What a descent did.

    Attributes
    ----------
    flat : Tensor of shape (members, parameters)
        The parameters at its end.
    losses : list of float
        Half the weighted mean of squared residuals, averaged over the members, before
        each step and after the last.
    n_steps : int
        Steps taken.
    rate : float
        The learning rate it kept.
    n_retries : int
        Restarts at half the rate.
    interrupted : bool
        Whether Ctrl-C ended it early.
    """

    flat: Tensor
    losses: list[float]
    n_steps: int
    rate: float
    n_retries: int
    interrupted: bool


def descend(
    networks: FiniteNetworks,
    start: Float[Tensor, "members parameters"],
    rows: Tensor,
    targets: Float[Tensor, "rows outputs"],
    weights: Float[Tensor, " rows"],
    *,
    time: float,
    n_steps: int,
    ridge: float,
    chunk: int,
    on_step: Callable[[Callable[[], Tensor]], bool] = lambda parameters: False,
) -> Descent:
    r"""Train by gradient descent on the squared loss of all rows.

    A member with outputs f, started at :math:`\theta_0`, minimizes, with N the sum of
    the weights times the number of outputs,

    .. math::
        \frac{1}{2N} \sum_i w_i \lVert f(x_i) - y_i \rVert^2
        + \frac{\lambda}{2N} \lVert \theta - \theta_0 \rVert^2 .

    Parameters
    ----------
    networks : FiniteNetworks
        The networks.
    start : Tensor of shape (members, parameters)
        Initial parameters.
    rows, targets, weights : Tensor
        The data, on the device to train on.
    time : float
        Learning rate times number of steps.
    n_steps : int
        Steps; twice as many after each divergence.
    ridge : float
        lambda.
    chunk : int
        Rows whose activations are held at once.
    on_step : callable
        Called after each step, with a function that returns the parameters; returns
        whether to stop.

    Returns
    -------
    Descent
        The parameters, and how they were reached.

    Raises
    ------
    FloatingPointError
        If the loss diverges at an eighth of the learning rate too.
    """
    entries = float(weights.sum()) * targets.shape[1]
    for retry in range(_MOST_RETRIES + 1):
        trained, outputs = networks.split(start, rows, chunk)
        loop = _Loop(trained, outputs, targets, weights / entries, chunk)

        def present(loop: _Loop = loop) -> Tensor:
            return networks.join(start, loop.trained)

        def report(present: Callable[[], Tensor] = present) -> bool:
            return on_step(present)

        loop.run(time / n_steps, n_steps, ridge / entries, report)
        if not loop.diverged:
            return Descent(
                present(),
                loop.losses,
                loop.n_steps,
                time / n_steps,
                retry,
                loop.interrupted,
            )
        n_steps *= 2
    raise FloatingPointError(
        "the loss diverges at a learning rate of "
        f"{time / n_steps * 2 ** (_MOST_RETRIES + 1):.3g}, and also at its half, "
        "quarter and eighth; networks this narrow are far from their limit: raise "
        "width, or lower weight_std or depth"
    )


class _Loop:
    """One attempt at a descent, with its state."""

    def __init__(
        self,
        trained: dict[str, Tensor],
        outputs: Callable[[dict[str, Tensor], slice], Tensor],
        targets: Tensor,
        shares: Tensor,
        chunk: int,
    ) -> None:
        self.trained = trained
        self.losses: list[float] = []
        self.n_steps = 0
        self.diverged = self.interrupted = False
        self._outputs = outputs
        self._targets = targets
        self._shares = shares[:, None]
        self._chunk = chunk

    def run(
        self,
        rate: float,
        n_steps: int,
        decay: float,
        on_step: Callable[[], bool],
    ) -> None:
        """Take the steps; stop at divergence, on Ctrl-C, or when asked to."""
        start = {name: value.clone() for name, value in self.trained.items()}
        parameters = list(self.trained.values())
        first: Tensor | None = None
        try:
            for step in range(n_steps + 1):
                losses, grads = self._gradients(step < n_steps)
                if first is None:
                    # A start that is right by chance is no measure.
                    scale = 0.5 * float((self._shares * self._targets**2).sum())
                    first = losses.clamp(min=max(scale, torch.finfo(losses.dtype).tiny))
                if not bool((losses <= _DIVERGED * first).all()):
                    self.diverged = True
                    return
                self.losses.append(float(losses.mean()))
                if (step and on_step()) or step == n_steps:
                    return
                with torch.no_grad():
                    for value, grad, origin in zip(
                        parameters, grads, start.values(), strict=True
                    ):
                        if decay:
                            grad = grad + decay * (value - origin)
                        value.sub_(grad, alpha=rate)
                self.n_steps += 1
        except KeyboardInterrupt:
            self.interrupted = True

    def _gradients(self, wanted: bool) -> tuple[Tensor, Sequence[Tensor]]:
        """Return every member's loss, and the gradients of their sum."""
        while True:
            try:
                return self._sum_over_chunks(wanted)
            except torch.cuda.OutOfMemoryError:
                if self._chunk == 1:
                    raise
            self._chunk //= 2
            warnings.warn(
                f"CUDA ran out of memory; going on with {self._chunk} rows at a time",
                RuntimeWarning,
                stacklevel=2,
            )

    def _sum_over_chunks(self, wanted: bool) -> tuple[Tensor, Sequence[Tensor]]:
        named = {name: value.requires_grad_() for name, value in self.trained.items()}
        total: Tensor | None = None
        sums: Sequence[Tensor] = ()
        for start in range(0, len(self._targets), self._chunk):
            some = slice(start, start + self._chunk)
            with torch.set_grad_enabled(wanted):
                residuals = self._outputs(named, some) - self._targets[some]
                losses = 0.5 * (self._shares[some] * residuals**2).sum((1, 2))
            if wanted:
                grads = torch.autograd.grad(losses.sum(), list(named.values()))
                sums = (
                    grads
                    if not sums
                    else [a + b for a, b in zip(sums, grads, strict=True)]
                )
            total = losses.detach() if total is None else total + losses.detach()
        assert total is not None
        return total, sums
