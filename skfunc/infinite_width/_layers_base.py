"""What every layer of an architecture is: a map of shapes and a map of kernels."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from skfunc.infinite_width._kernel_block import KernelBlock, Pairs

# (height, width) of an image, or () for a vector. Channels are infinitely many.
Shape = tuple[int, ...]

# The largest standard deviation whose variance is a number of float64; of that type,
# in which numbers of other precision are compared with it.
_LARGEST_SCALE = np.sqrt(np.finfo(np.float64).max)


class Layer:
    """A layer, or a network of layers, of infinite width.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> isinstance(L.Serial(L.Dense(), L.Relu()), L.Layer)
    True
    """

    def output_shape(self, shape: Shape) -> Shape:
        """Return the layer's (height, width), or () for vectors; raise if it cannot be.

        Parameters
        ----------
        shape : tuple of int
            (height, width) of the layer's input, () for vectors.

        Returns
        -------
        tuple of int
            (height, width) of the layer's output, () for vectors.
        """
        return shape

    def _pairs_below(self, pairs: Pairs) -> Pairs:
        """Return the pairs of pixels that the layer reads, given those it writes."""
        return pairs

    def _propagate(self, block: KernelBlock, pairs: Pairs) -> KernelBlock:
        """Return the kernels after the layer."""
        raise NotImplementedError

    def kernel(
        self,
        X1,
        X2=None,
        kind: Literal["ntk", "nngp"] = "ntk",
        image_shape: tuple[int, int, int] | None = None,
    ) -> np.ndarray:
        """Return the kernel matrix of the network of infinite width.

        Parameters
        ----------
        X1 : array-like of shape (n1, n_features)
            Rows; images are flattened in the order channels, height, width.
        X2 : array-like of shape (n2, n_features), default=None
            Other rows. None stands for X1 and costs half.
        kind : {"ntk", "nngp"}, default="ntk"
            "nngp" is the covariance of the outputs of random networks, "ntk" the
            neural tangent kernel, in which wide networks train.
        image_shape : tuple of int (channels, height, width), default=None
            The images' shape; None for plain vectors.

        Returns
        -------
        ndarray of shape (n1, n2)
            The kernel matrix.
        """
        from skfunc.infinite_width._kernel_matrices import kernel_matrices

        if kind not in ("ntk", "nngp"):
            raise ValueError(f"kind={kind!r} is unknown; choose 'ntk' or 'nngp'.")
        matrices = kernel_matrices(self, X1, X2, image_shape=image_shape, kind=kind)
        matrix = getattr(matrices, kind)
        assert matrix is not None
        return matrix.numpy(force=True)

    def to_module(
        self,
        width: int = 512,
        n_features: int | None = None,
        image_shape: tuple[int, int, int] | None = None,
        n_outputs: int = 1,
        random_state: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.nn.Module:
        """Return a random network of finite width, in NTK parameterization.

        Parameters
        ----------
        width : int, default=512
            Units of hidden layers, channels of convolutions.
        n_features : int, default=None
            Columns of the data; None to take them from ``image_shape``.
        image_shape : tuple of int (channels, height, width), default=None
            The images' shape; None for plain vectors. The module takes flat rows.
        n_outputs : int, default=1
            Outputs, when the last layer is Dense.
        random_state : int, default=None
            Seed of the weights.
        dtype : torch.dtype, default=None
            The parameters' type; None for torch's default.

        Returns
        -------
        torch.nn.Module
            The network, its weights and biases drawn from N(0, 1).
        """
        from skfunc.infinite_width._modules import finite_network

        return finite_network(
            self, width, n_features, image_shape, n_outputs, random_state, dtype
        )


def check_scale(name: str, value) -> None:
    """Raise unless a standard deviation is not negative and its square finite."""
    if not 0 <= value <= _LARGEST_SCALE:
        raise ValueError(
            f"{name}={value!r} must not be negative, and its square must be finite."
        )


def check_image(layer: Layer, shape: Shape) -> None:
    """Raise unless the layer's input is an image."""
    if not shape:
        raise ValueError(
            f"{layer!r} needs images and was given vectors: pass "
            "image_shape=(channels, height, width), and put the layer before Flatten "
            "and GlobalAvgPool."
        )
