"""Layers that are linear in their input: weights, means, changes of shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from skfunc.infinite_width._kernel_block import KernelBlock, Pairs, Window
from skfunc.infinite_width._layers_base import Layer, Shape, check_image, check_scale


@dataclass(frozen=True)
class Identity(Layer):
    """The layer that returns its input, the usual shortcut of a residual block.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Dense(), L.Identity(), L.Dense())
    >>> net.kernel([[1.0, 1.0]], kind="nngp")
    array([[1.]])
    """

    def _propagate(self, block: KernelBlock, pairs: Pairs) -> KernelBlock:
        return block


@dataclass(frozen=True)
class Dense(Layer):
    """Fully connected layer in NTK parameterization.

    Parameters
    ----------
    weight_std : float, default=1.0
        Standard deviation of weights, before the division by the root of the width.
    bias_std : float, default=0.0
        Standard deviation of biases.

    Notes
    -----
    k' = weight_std^2 k + bias_std^2 and t' = k' + weight_std^2 t.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> L.Dense(weight_std=2.0).kernel([[1.0, 1.0]], kind="nngp")
    array([[4.]])
    """

    weight_std: float = 1.0
    bias_std: float = 0.0

    def __post_init__(self) -> None:
        check_scale("weight_std", self.weight_std)
        check_scale("bias_std", self.bias_std)

    def output_shape(self, shape: Shape) -> Shape:
        """Return (), the shape of vectors.

        Parameters
        ----------
        shape : tuple of int
            The input's shape, which must be () too.

        Returns
        -------
        tuple of int
            The empty tuple.
        """
        if shape:
            raise ValueError(
                f"{self!r} acts on vectors and was given images of {shape}: put "
                "Flatten() or GlobalAvgPool() before it, or use "
                "Conv(filter_shape=(1, 1))."
            )
        return shape

    def _propagate(self, block: KernelBlock, pairs: Pairs) -> KernelBlock:
        return block.affine(self.weight_std**2, self.bias_std**2)


class _Windowed(Layer):
    """A layer that slides a window over images."""

    padding: str

    def _size(self) -> tuple[int, int]:
        raise NotImplementedError

    def _stride(self) -> tuple[int, int]:
        raise NotImplementedError

    def _check(self, name: str) -> None:
        for option, values in ((name, self._size()), ("strides", self._stride())):
            if len(values) != 2 or any(value < 1 for value in values):
                raise ValueError(f"{option}={values!r} must be two positive integers.")
        if self.padding not in ("SAME", "VALID"):
            raise ValueError(
                f"padding={self.padding!r} is unknown; choose 'SAME' or 'VALID'."
            )

    def windows(self, shape: Sequence[int]) -> tuple[Window, Window]:
        """Return the windows along height and width.

        Parameters
        ----------
        shape : sequence of int
            (height, width) of the input.

        Returns
        -------
        tuple of Window
            The windows along height and width.
        """
        vertical, horizontal = zip(self._size(), self._stride(), shape, strict=True)
        return (
            Window(vertical[0], vertical[1], self.padding, vertical[2]),
            Window(horizontal[0], horizontal[1], self.padding, horizontal[2]),
        )

    def output_shape(self, shape: Shape) -> Shape:
        """Return (height, width) of the images that the layer returns.

        Parameters
        ----------
        shape : tuple of int
            (height, width) of the input.

        Returns
        -------
        tuple of int
            (height, width) of the output.
        """
        check_image(self, shape)
        windows = self.windows(shape)
        if any(window.n_out < 1 for window in windows):
            raise ValueError(f"{self!r} has a larger window than its input, {shape}.")
        return windows[0].n_out, windows[1].n_out


@dataclass(frozen=True)
class Conv(_Windowed):
    """Convolution in NTK parameterization.

    Parameters
    ----------
    weight_std : float, default=1.0
        Standard deviation of weights, before the division by the root of the width
        times the filter's size.
    bias_std : float, default=0.0
        Standard deviation of biases.
    filter_shape : tuple of int, default=(3, 3)
        Height and width of the filter.
    strides : tuple of int, default=(1, 1)
        Steps of the filter along height and width.
    padding : {"SAME", "VALID"}, default="SAME"
        "SAME" surrounds images with zeros so that ceil(size / stride) windows fit, the
        odd zero after; "VALID" keeps to windows inside.

    Notes
    -----
    k'[p, q] = weight_std^2 mean_d k[s p + d, s q + d] + bias_std^2, over the filter's
    offsets d; pixels outside count zero.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Conv(), L.Relu(), L.Flatten(), L.Dense())
    >>> net.kernel([[1.0] * 16], kind="nngp", image_shape=(1, 4, 4)).round(4)
    array([[0.3472]])
    """

    weight_std: float = 1.0
    bias_std: float = 0.0
    filter_shape: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"

    def __post_init__(self) -> None:
        check_scale("weight_std", self.weight_std)
        check_scale("bias_std", self.bias_std)
        self._check("filter_shape")

    def _size(self) -> tuple[int, int]:
        return self.filter_shape

    def _stride(self) -> tuple[int, int]:
        return self.strides

    def _propagate(self, block: KernelBlock, pairs: Pairs) -> KernelBlock:
        if self.filter_shape != (1, 1) or self.strides != (1, 1):
            step = 2 if block.pairs is Pairs.ALL else 1
            shape = block.nngp.shape[0], block.nngp.shape[step]
            vertical, horizontal = self.windows(shape)
            heights, widths = ((0, 1), (2, 3)) if step == 2 else ((0,), (1,))

            def convolve(values: Tensor) -> Tensor:
                half = vertical.shape(values, heights)
                memory = block.scratch.like("window", values, half)
                columns = vertical.sum(values, heights, memory)
                same = horizontal.shape(columns, widths) == tuple(values.shape)
                into = block.scratch.over(values) if same else None
                return horizontal.sum(columns, widths, into)

            block = block.apply(convolve)
        # The mean over the filter is taken by one division of the sums above.
        size = math.prod(self.filter_shape)
        return block.affine(self.weight_std**2 / size, self.bias_std**2)


@dataclass(frozen=True)
class AvgPool(_Windowed):
    """Mean over windows of an image.

    Parameters
    ----------
    window_shape : tuple of int, default=(2, 2)
        Height and width of the window.
    strides : tuple of int, default=None
        Steps of the window; None for windows side by side.
    padding : {"SAME", "VALID"}, default="VALID"
        As in Conv; zeros outside are counted by the mean.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Conv(), L.Relu(), L.AvgPool(), L.Flatten(), L.Dense())
    >>> net.kernel([[1.0] * 16], kind="nngp", image_shape=(1, 4, 4)).round(4)
    array([[0.2902]])
    """

    window_shape: tuple[int, int] = (2, 2)
    strides: tuple[int, int] | None = None
    padding: str = "VALID"

    def __post_init__(self) -> None:
        self._check("window_shape")

    def _size(self) -> tuple[int, int]:
        return self.window_shape

    def _stride(self) -> tuple[int, int]:
        return self.window_shape if self.strides is None else self.strides

    def _pairs_below(self, pairs: Pairs) -> Pairs:
        return Pairs.ALL

    def _propagate(self, block: KernelBlock, pairs: Pairs) -> KernelBlock:
        vertical, horizontal = self.windows(block.nngp.shape[1:3])
        scale = 1.0 / math.prod(self.window_shape) ** 2

        def pool(values: Tensor) -> Tensor:
            for axis, window in enumerate((vertical, vertical, horizontal, horizontal)):
                values = window.sum(values, (axis,))
            return values * scale

        return block.apply(pool).restrict(pairs)


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """Mean over all the pixels of an image: images become vectors.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Conv(), L.Relu(), L.GlobalAvgPool(), L.Dense())
    >>> net.kernel([[1.0] * 16], kind="nngp", image_shape=(1, 4, 4)).round(4)
    array([[0.2675]])
    """

    def output_shape(self, shape: Shape) -> Shape:
        """Return (), the shape of vectors.

        Parameters
        ----------
        shape : tuple of int
            (height, width) of the input.

        Returns
        -------
        tuple of int
            The empty tuple.
        """
        check_image(self, shape)
        return ()

    def _pairs_below(self, pairs: Pairs) -> Pairs:
        return Pairs.ALL

    def _propagate(self, block: KernelBlock, pairs: Pairs) -> KernelBlock:
        return block.apply(lambda values: values.mean((0, 1, 2, 3)), Pairs.NONE)


@dataclass(frozen=True)
class Flatten(Layer):
    """Put the pixels of an image side by side: images become vectors.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(L.Flatten(), L.Dense())
    >>> net.kernel([[1.0] * 16], kind="nngp", image_shape=(1, 4, 4))
    array([[1.]])
    """

    def output_shape(self, shape: Shape) -> Shape:
        """Return (), the shape of vectors.

        Parameters
        ----------
        shape : tuple of int
            (height, width) of the input, or () already.

        Returns
        -------
        tuple of int
            The empty tuple.
        """
        return ()

    def _pairs_below(self, pairs: Pairs) -> Pairs:
        return Pairs.SAME

    def _propagate(self, block: KernelBlock, pairs: Pairs) -> KernelBlock:
        if block.pairs is Pairs.NONE:
            return block
        return block.apply(lambda values: values.mean((0, 1)), Pairs.NONE)
