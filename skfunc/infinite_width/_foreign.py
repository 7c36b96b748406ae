"""Kernel functions of other libraries in the place of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skfunc._shapes import Float
from skfunc.infinite_width._kernel_recursion import KernelMatrices
from skfunc.infinite_width._layers_base import Layer
from skfunc.infinite_width._layers_networks import preset

# Rows and columns of a block: the other library holds some ten matrices of that size,
# for images as many for each pixel or pair of pixels.
_BLOCK_ROWS = {"vectors": 1024, "images": 32}
# Rows whose kernels with one another are computed for those with themselves.
_DIAGONAL_ROWS = 16


@dataclass(frozen=True)
class ForeignKernel:
    """A kernel function with the calling convention of neural-tangents' stax.

    It is called as ``kernel_fn(x1, x2, get="nngp")`` or ``get="ntk"`` with arrays of
    rows, images with their channels last, and ``x2=None`` for ``x1`` again; it returns
    the matrix of all pairs. Its weights and biases are its own: nothing in it is tuned.

    Parameters
    ----------
    kernel_fn : callable
        The function.

    References
    ----------
    R. Novak, L. Xiao, J. Hron, J. Lee, A. Alemi, J. Sohl-Dickstein, S. Schoenholz,
    "Neural Tangents: fast and easy infinite neural networks in Python", ICLR 2020,
    arXiv 1912.02803.
    """

    kernel_fn: Callable[..., Any]

    def blocks(
        self,
        rows1: Float[Tensor, "rows1 features"],
        rows2: Float[Tensor, "rows2 features"] | None,
        image_shape: tuple[int, int, int] | None,
        kind: str,
        block_rows: int | None = None,
    ) -> Iterator[tuple[slice, slice, KernelMatrices]]:
        """Iterate over blocks of pairs of rows, as the native kernels do.

        Parameters
        ----------
        rows1, rows2 : Tensor of shape (n, n_features)
            Rows; None stands for the first, and for blocks on and above the diagonal.
        image_shape : tuple of int (channels, height, width) or None
            The images' shape.
        kind : {"both", "nngp", "ntk"}
            What is computed; both take two calls.
        block_rows : int, default=None
            Rows and columns of a block.

        Yields
        ------
        tuple of (slice, slice, KernelMatrices)
            Rows, columns, and the block.
        """
        same = rows2 is None
        inputs1 = self._inputs(rows1, image_shape)
        inputs2 = inputs1 if rows2 is None else self._inputs(rows2, image_shape)
        step = block_rows or _BLOCK_ROWS["vectors" if image_shape is None else "images"]
        for i in range(0, len(inputs1), step):
            first = slice(i, min(i + step, len(inputs1)))
            for j in range(i if same else 0, len(inputs2), step):
                second = slice(j, min(j + step, len(inputs2)))
                columns = None if same and i == j else inputs2[second]
                nngp, ntk = (
                    self._block(inputs1[first], columns, get).to(rows1)
                    if kind in (get, "both")
                    else None
                    for get in ("nngp", "ntk")
                )
                yield first, second, KernelMatrices(nngp, ntk)

    def diagonal(
        self,
        rows: Float[Tensor, "rows features"],
        image_shape: tuple[int, int, int] | None,
    ) -> KernelMatrices:
        """Return both kernels of each row with itself.

        Parameters
        ----------
        rows : Tensor of shape (n, n_features)
            Rows.
        image_shape : tuple of int (channels, height, width) or None
            The images' shape.

        Returns
        -------
        KernelMatrices
            (nngp, ntk) of shape (n,).
        """
        inputs = self._inputs(rows, image_shape)
        nngp, ntk = (
            torch.cat(
                [rows.new_empty(0)]
                + [
                    self._block(inputs[i : i + _DIAGONAL_ROWS], None, get)
                    .diagonal()
                    .to(rows)
                    for i in range(0, len(inputs), _DIAGONAL_ROWS)
                ]
            )
            for get in ("nngp", "ntk")
        )
        return KernelMatrices(nngp, ntk)

    def _inputs(
        self, rows: Tensor, image_shape: tuple[int, int, int] | None
    ) -> np.ndarray:
        """Return the rows as the function takes them."""
        if rows.requires_grad:
            raise ValueError(
                f"The kernels of {self.kernel_fn!r} cannot be differentiated here; "
                "build the network from skfunc.infinite_width.layers."
            )
        array = rows.numpy(force=True)
        if image_shape is None:
            return array
        return np.moveaxis(array.reshape(-1, *image_shape), 1, -1)

    def _block(self, x1: np.ndarray, x2: np.ndarray | None, get: str) -> Tensor:
        """Call the function and check what it returns."""
        call = f"{self.kernel_fn!r} was called as kernel_fn(x1, x2, get={get!r})"
        try:
            block = self.kernel_fn(x1, x2, get=get)
        except TypeError as error:
            raise TypeError(
                f"{call}, the calling convention of neural-tangents, and failed: "
                f"{error}. Pass the third of the functions that its stax returns, or a "
                "network of skfunc.infinite_width.layers."
            ) from error
        array = np.asarray(block)
        shape = (len(x1), len(x1 if x2 is None else x2))
        if array.dtype.kind != "f" or array.shape != shape:
            raise ValueError(
                f"{call} with rows of shape {x1.shape} and returned an array of shape "
                f"{array.shape} and type {array.dtype}; floats of shape {shape} are "
                "expected."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{call} and returned NaN or infinity.")
        return torch.from_numpy(array.copy())


def as_network(
    architecture: str | Layer | Callable[..., Any],
    *,
    depth: int = 3,
    activation: str | Layer = "relu",
    weight_std: float | Tensor = 1.5,
    bias_std: float | Tensor = 0.05,
    image_shape: tuple[int, int, int] | None = None,
) -> Layer | ForeignKernel:
    """Return the network that the parameter `architecture` stands for.

    Parameters
    ----------
    architecture : str, Layer or callable
        The name of a preset, a network, or a kernel function of neural-tangents.
    depth, activation, weight_std, bias_std, image_shape
        As in `skfunc.infinite_width.layers.preset`, for names alone.

    Returns
    -------
    Layer or ForeignKernel
        What `kernel_matrices` and its kin take.

    Raises
    ------
    TypeError
        If the architecture is none of these.
    """
    if isinstance(architecture, str):
        return preset(
            architecture,
            depth,
            activation,
            weight_std,  # type: ignore[arg-type]
            bias_std,  # type: ignore[arg-type]
            image_shape,
        )
    if isinstance(architecture, (Layer, ForeignKernel)):
        return architecture
    if isinstance(architecture, type) or not callable(architecture):
        hint = ""
        if isinstance(architecture, type) and issubclass(architecture, Layer):
            hint = f" Write {architecture.__name__}() to make a layer."
        raise TypeError(
            f"architecture={architecture!r} is no network: pass 'mlp', 'conv', "
            "'wide_resnet', a network of skfunc.infinite_width.layers, or a function "
            f"kernel_fn(x1, x2, get=...) of neural-tangents.{hint}"
        )
    return ForeignKernel(architecture)
