"""The tangent kernel of a finite network, and its expansion to first order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vmap

from skfunc._shapes import Float
from skfunc._validation import check_integer, check_option

# Numbers in one chunk of the Jacobian when chunk_size is None: 128 MB in float64.
_JACOBIAN_NUMBERS = 2**24


def empirical_ntk(
    module: nn.Module,
    X1: ArrayLike | Tensor,
    X2: ArrayLike | Tensor | None = None,
    *,
    outputs: str = "mean",
    chunk_size: int | None = None,
) -> NDArray[Any]:
    r"""Return the tangent kernel of a finite network at its present parameters.

    With J(x) the Jacobian of the network's c outputs in its parameters, the kernel of
    two rows is the c x c matrix :math:`J(x) J(x')^T`. For a twin made by
    ``net.to_module`` it tends to ``net.kernel(x, x')`` times the identity as the width
    grows, with an error of order :math:`1 / \sqrt{width}`.

    Parameters
    ----------
    module : torch.nn.Module
        The network; it takes rows and returns (rows, outputs) or (rows,). Its
        parameters that require gradients count, so that with all but the last layer
        frozen this is the kernel in which the last layer trains.
    X1 : array-like or Tensor of shape (n1, n_features)
        Rows; moved to the type and the device of the parameters.
    X2 : array-like or Tensor of shape (n2, n_features), default=None
        Other rows. None stands for X1, of which only the upper blocks are computed.
    outputs : {"mean", "full"}, default="mean"
        "mean" is the trace over outputs divided by their number, "full" keeps the
        matrix of every pair of rows.
    chunk_size : int, default=None
        Rows whose Jacobians are held at once, twice; each takes c numbers a parameter.
        None holds as many as fit in 128 MB of float64.

    Returns
    -------
    ndarray of shape (n1, n2) or (n1, n2, n_outputs, n_outputs)
        The kernel, in the type of the parameters.

    Raises
    ------
    ValueError
        If no parameter requires a gradient, the rows are no matrix, or an option is
        unknown.

    References
    ----------
    Jacot, Gabriel, Hongler (2018). Neural tangent kernel: convergence and
    generalization in neural networks. arXiv:1806.07572.

    Novak, Sohl-Dickstein, Schoenholz (2022). Fast finite width neural tangent kernel.
    arXiv:2206.08720.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.infinite_width import empirical_ntk, layers as L
    >>> net = L.Serial(L.Dense(1.5, 0.05), L.Relu(), L.Dense())
    >>> X = np.array([[1.0, 0.0], [0.6, 0.8]])
    >>> module = net.to_module(width=4096, n_features=2, random_state=0)
    >>> error = empirical_ntk(module, X) - net.kernel(X)
    >>> bool(abs(error).max() < 0.1)
    True
    """
    check_option("outputs", outputs, ("mean", "full"))
    trained, rest = _split_parameters(module)
    like = next(iter(trained.values()))
    rows1 = _rows("X1", X1, like)
    rows2 = rows1 if X2 is None else _rows("X2", X2, like)

    def one_row(parameters: Mapping[str, Tensor], row: Tensor) -> Tensor:
        output = functional_call(module, {**rest, **parameters}, (row.unsqueeze(0),))
        return output.flatten()

    def jacobians(rows: Tensor) -> list[Float[Tensor, "rows outputs numbers"]]:
        parts = vmap(jacrev(one_row), in_dims=(None, 0))(trained, rows)
        return [part.flatten(2) for part in parts.values()]

    with torch.no_grad():
        n_outputs = one_row(trained, rows1[0]).numel() if len(rows1) else 1
    if chunk_size is None:
        n_parameters = sum(value.numel() for value in trained.values())
        chunk_size = max(_JACOBIAN_NUMBERS // (n_parameters * n_outputs), 1)
    else:
        chunk_size = check_integer("chunk_size", chunk_size)
    shape = (n_outputs, n_outputs) if outputs == "full" else ()
    kernel = like.new_empty((len(rows1), len(rows2), *shape))
    for first in _chunks(len(rows1), chunk_size):
        left = jacobians(rows1[first])
        for second in _chunks(len(rows2), chunk_size):
            if X2 is None and second.start < first.start:
                continue
            same = X2 is None and first == second
            right = left if same else jacobians(rows2[second])
            block = _contract(left, right, outputs == "full")
            kernel[first, second] = block
            if X2 is None and not same:
                # The matrix of outputs of the pair (j, i) is the transpose of (i, j)'s.
                swapped = block.transpose(0, 1)
                kernel[second, first] = swapped.mT if shape else swapped
    return kernel.numpy(force=True)


class Linearization:
    r"""A network's first-order expansion about the parameters it had.

    :math:`f_{lin}(\theta, x) = f(\theta_0, x) + J(x) (\theta - \theta_0)`. `linearize`
    makes it. Calling it returns a tensor that can be differentiated in the parameters;
    it trains as a linear model in the kernel `empirical_ntk` at every width.

    Parameters
    ----------
    module : torch.nn.Module
        The network; it may change afterwards, the expansion does not.

    Attributes
    ----------
    parameters : dict of str to Tensor
        The parameters :math:`\theta_0`, those that require gradients.

    See Also
    --------
    linearize : The function that makes one.

    Examples
    --------
    >>> import torch
    >>> from skfunc.infinite_width import Linearization
    >>> square = Linearization(torch.nn.Bilinear(1, 1, 1, bias=False))
    >>> sorted(square.parameters)
    ['weight']
    """

    def __init__(self, module: nn.Module) -> None:
        trained, rest = _split_parameters(module)
        self._module = module
        self.parameters = {name: value.clone() for name, value in trained.items()}
        self._rest = {name: value.clone() for name, value in rest.items()}

    def __call__(
        self, parameters: Mapping[str, Tensor], X: ArrayLike | Tensor
    ) -> Tensor:
        """Return the expansion's outputs.

        Parameters
        ----------
        parameters : mapping of str to Tensor
            A value for each name in `parameters`.
        X : array-like or Tensor of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs)
            The module's outputs to first order; its shape is the module's own.
        """
        if set(parameters) != set(self.parameters):
            unlike = sorted(set(parameters) ^ set(self.parameters))
            raise ValueError(
                f"the parameters are not those of the network: {unlike} are missing or "
                "unknown"
            )
        rows = _rows("X", X, next(iter(self.parameters.values())))
        shift = {
            name: parameters[name] - value for name, value in self.parameters.items()
        }

        def outputs(at: Mapping[str, Tensor]) -> Tensor:
            return functional_call(self._module, {**self._rest, **at}, (rows,))

        parts: tuple[Tensor, ...] = jvp(outputs, (self.parameters,), (shift,))
        value, change = parts
        return value + change

    def predict(
        self, X: ArrayLike | Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> NDArray[Any]:
        """Return the outputs as an array.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Rows.
        parameters : mapping of str to Tensor, default=None
            Where to evaluate; None is where the expansion was made, and its outputs
            are those of the network.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs)
            The outputs.
        """
        with torch.no_grad():
            at = self.parameters if parameters is None else parameters
            return self(at, X).numpy(force=True)


def linearize(module: nn.Module) -> Linearization:
    r"""Expand a network to first order about its present parameters.

    Networks of growing width train ever more like their linearization. Under the
    squared loss that one is a linear model in the kernel `empirical_ntk`, and
    gradient flow on it has the closed form of the infinite network, with this kernel
    in place of the limit and :math:`y - f(\theta_0, x)` in place of y.

    Parameters
    ----------
    module : torch.nn.Module
        The network.

    Returns
    -------
    Linearization
        ``f(parameters, X)`` is the expansion, `f.parameters` where it was made.

    Raises
    ------
    ValueError
        If no parameter requires a gradient.

    References
    ----------
    Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein, Pennington (2019). Wide
    neural networks of any depth evolve as linear models under gradient descent.
    arXiv:1902.06720.

    Examples
    --------
    >>> import torch
    >>> from skfunc.infinite_width import layers as L, linearize
    >>> net = L.Serial(L.Dense(), L.Erf(), L.Dense())
    >>> module = net.to_module(width=64, n_features=3, random_state=0)
    >>> f = linearize(module)
    >>> X = torch.ones(2, 3)
    >>> torch.allclose(f(f.parameters, X), module(X))
    True
    >>> moved = {name: 1.01 * value for name, value in f.parameters.items()}
    >>> f(moved, X).shape
    torch.Size([2, 1])
    """
    return Linearization(module)


def _split_parameters(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what is differentiated, and the frozen parameters and buffers."""
    trained: dict[str, Tensor] = {}
    rest = {name: value.detach() for name, value in module.named_buffers()}
    for name, value in module.named_parameters():
        (trained if value.requires_grad else rest)[name] = value.detach()
    if not trained:
        raise ValueError(
            "the module has no parameter that requires a gradient, and so no tangent "
            "kernel; unfreeze at least one with requires_grad_()"
        )
    return trained, rest


def _rows(name: str, X: ArrayLike | Tensor, like: Tensor) -> Tensor:
    """Return rows in the type and on the device of the parameters."""
    values = X if isinstance(X, Tensor) else torch.from_numpy(np.array(X, dtype=float))
    if values.dim() < 2:
        raise ValueError(
            f"{name} has the shape {tuple(values.shape)}; pass (n_samples, n_features)"
        )
    return values.to(device=like.device, dtype=like.dtype)


def _chunks(n: int, size: int) -> Iterator[slice]:
    """Iterate over slices of at most `size` rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _contract(left: list[Tensor], right: list[Tensor], full: bool) -> Tensor:
    """Return products of two chunks of Jacobians, summed over the parameters."""
    block: Tensor | float = 0.0
    n_outputs = left[0].shape[1]
    for one, other in zip(left, right, strict=True):
        if full:
            n1, n2 = len(one), len(other)
            product = one.flatten(0, 1) @ other.flatten(0, 1).mT
            product = product.reshape(n1, n_outputs, n2, n_outputs).transpose(1, 2)
        else:
            # Outputs are summed over as parameters are.
            product = one.flatten(1) @ other.flatten(1).mT / n_outputs
        block = block + product
    assert isinstance(block, Tensor)
    return block
