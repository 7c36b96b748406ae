"""Kernels of infinitely wide networks for scikit-learn's kernel machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel
from torch.autograd import forward_ad

from skfunc._validation import check_option
from skfunc.infinite_width._foreign import ForeignKernel, as_network
from skfunc.infinite_width._kernel_matrices import (
    kernel_blocks,
    kernel_diagonal,
    kernel_matrices,
)
from skfunc.infinite_width._layers_base import Layer, check_scale

Array = NDArray[np.float64]

# The stds that are tuned, in the order of theta: scikit-learn sorts them by name.
_STDS = ("bias_std", "weight_std")
# Rows and columns of a block of vectors with tangents, which need memory of their own:
# the quickest of those tried.
_BLOCK_ROWS = 256


class NeuralKernel(Kernel):
    """Kernel of a network of infinite width, for scikit-learn's kernel machines.

    It goes wherever scikit-learn takes a kernel: into `GaussianProcessRegressor` and
    `GaussianProcessClassifier`, where the standard deviations of weights and biases are
    learned by the gradient of the log marginal likelihood, and into `SVC`, `SVR`,
    `KernelRidge` and `KernelPCA` as ``kernel=NeuralKernel(...)``. Sums and products
    with other kernels are kernels.

    Parameters
    ----------
    architecture : {"mlp", "conv", "wide_resnet"} or Layer or callable, default="mlp"
        The network: a name as in `layers.preset`, a network of
        `skfunc.infinite_width.layers`, or a function ``kernel_fn(x1, x2, get=...)`` of
        neural-tangents. Only networks made by name have standard deviations to tune.
    kind : {"nngp", "ntk"}, default="nngp"
        "nngp" is the covariance of the outputs of random networks; "ntk" the neural
        tangent kernel, in which wide networks train by gradient descent.
    depth : int, default=3
        Hidden layers of a network made by name, or blocks in each of its groups.
    activation : str or Layer, default="relu"
        Activation of a network made by name, as in `layers.preset`.
    weight_std : float, default=1.5
        Standard deviation of the weights of a network made by name, before the division
        by the root of the width.
    bias_std : float, default=0.05
        Standard deviation of its biases. Zero stays zero: it has no logarithm to tune.
    image_shape : tuple of int (channels, height, width), default=None
        Shape of images, whose rows are flattened in that order; None for plain vectors.
    weight_std_bounds : pair of floats or "fixed", default=(0.1, 10.0)
        Bounds on `weight_std` when it is tuned.
    bias_std_bounds : pair of floats or "fixed", default=(1e-3, 10.0)
        Bounds on `bias_std` when it is tuned.

    See Also
    --------
    skfunc.infinite_width.InfiniteWidthRegressor : Regression with every choice made
        inside of one fit.
    skfunc.infinite_width.layers.preset : The networks made by name.

    Notes
    -----
    The gradient is exact: tangents of the standard deviations are carried through the
    recursion over layers, block by block.

    The kernel is not stationary. It scales as the data: standardize the columns, and
    multiply by a `ConstantKernel` where the outputs have another scale than the network
    gives them.

    References
    ----------
    Lee, Bahri, Novak, Schoenholz, Pennington, Sohl-Dickstein (2018). Deep neural
    networks as Gaussian processes. arXiv:1711.00165.

    Jacot, Gabriel, Hongler (2018). Neural tangent kernel: convergence and
    generalization in neural networks. arXiv:1806.07572.

    Arora, Du, Li, Salakhutdinov, Wang, Yu (2020). Harnessing the power of infinitely
    wide deep nets on small-data tasks. arXiv:1910.01663.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from sklearn.gaussian_process.kernels import WhiteKernel
    >>> from sklearn.preprocessing import scale
    >>> from skfunc.infinite_width import NeuralKernel
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X, y = scale(X[:150]), y[:150]
    >>> kernel = NeuralKernel("mlp", depth=2, activation="relu") + WhiteKernel()
    >>> model = GaussianProcessRegressor(kernel, normalize_y=True).fit(X, y)
    >>> mean, std = model.predict(X[:3], return_std=True)
    >>> mean.shape, std.shape
    ((3,), (3,))

    In a support vector machine, as a function that returns a matrix:

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.svm import SVC
    >>> X, y = load_iris(return_X_y=True)
    >>> SVC(kernel=NeuralKernel(kind="ntk")).fit(X, y).score(X, y) > 0.95
    True
    """

    def __init__(
        self,
        architecture: str | Layer | Callable[..., Any] = "mlp",
        *,
        kind: str = "nngp",
        depth: int = 3,
        activation: str | Layer = "relu",
        weight_std: float = 1.5,
        bias_std: float = 0.05,
        image_shape: tuple[int, int, int] | None = None,
        weight_std_bounds: tuple[float, float] | str = (0.1, 10.0),
        bias_std_bounds: tuple[float, float] | str = (1e-3, 10.0),
    ) -> None:
        self.architecture = architecture
        self.kind = kind
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.image_shape = image_shape
        self.weight_std_bounds = weight_std_bounds
        self.bias_std_bounds = bias_std_bounds

    @property
    def hyperparameter_weight_std(self) -> Hyperparameter:
        """The standard deviation of weights; fixed but in networks made by name."""
        return self._hyperparameter("weight_std", self.weight_std_bounds)

    @property
    def hyperparameter_bias_std(self) -> Hyperparameter:
        """The standard deviation of biases; fixed but in networks made by name."""
        return self._hyperparameter("bias_std", self.bias_std_bounds)

    def _hyperparameter(
        self, name: str, bounds: tuple[float, float] | str
    ) -> Hyperparameter:
        free = isinstance(self.architecture, str) and getattr(self, name) != 0
        return Hyperparameter(name, "numeric", bounds if free else "fixed")

    def __call__(
        self, X: ArrayLike, Y: ArrayLike | None = None, eval_gradient: bool = False
    ) -> Array | tuple[Array, Array]:
        """Return the kernel matrix and, if asked for, its gradient.

        Parameters
        ----------
        X : array-like of shape (n_samples_X, n_features)
            Rows.
        Y : array-like of shape (n_samples_Y, n_features), default=None
            Other rows; None stands for X and costs half.
        eval_gradient : bool, default=False
            Whether to return the gradient too; only without Y.

        Returns
        -------
        K : ndarray of shape (n_samples_X, n_samples_Y)
            The kernel.
        K_gradient : ndarray of shape (n_samples_X, n_samples_X, n_dims)
            Derivatives by the logarithms of the free standard deviations, bias first.

        Raises
        ------
        ValueError
            If a parameter is unknown or out of its range, the network cannot take the
            rows, or a gradient is asked for with Y.
        TypeError
            If `architecture` is no network.
        """
        rows = np.atleast_2d(X)
        if not eval_gradient:
            return self._matrix(rows, None if Y is None else np.atleast_2d(Y))
        if Y is not None:
            raise ValueError(
                "The gradient is that of the kernel of X alone: Y is given."
            )
        free = [p.name for p in self.hyperparameters if not p.fixed]
        gradient = np.empty((len(rows), len(rows), len(free)))
        for position, name in enumerate(free):
            kernel = self._write_derivative(rows, name, gradient[..., position])
        if not free:
            kernel = self._matrix(rows, None)
        return kernel, gradient

    def _matrix(self, X: Array, Y: Array | None) -> Array:
        """Return the kernel matrix."""
        matrices = kernel_matrices(
            self._network(), X, Y, image_shape=self.image_shape, kind=self._kind()
        )
        return getattr(matrices, self.kind).numpy()

    def _write_derivative(self, rows: Array, name: str, derivative: Array) -> Array:
        """Write the derivative by the logarithm of a std; return the kernel."""
        kernel = np.empty(derivative.shape)
        with forward_ad.dual_level():
            std = torch.tensor(float(getattr(self, name)), dtype=torch.float64)
            # The tangent of a std when its logarithm has the tangent one.
            network = self._network(**{name: forward_ad.make_dual(std, std)})
            for first, second, block in kernel_blocks(
                network,
                rows,
                image_shape=self.image_shape,
                kind=self._kind(),
                block_rows=_BLOCK_ROWS if self.image_shape is None else None,
            ):
                parts = forward_ad.unpack_dual(getattr(block, self.kind))
                for whole, part in zip((kernel, derivative), parts, strict=True):
                    values = 0.0 if part is None else part.numpy()
                    whole[first, second] = values
                    whole[second, first] = np.transpose(values)
        return kernel

    def diag(self, X: ArrayLike) -> Array:
        """Return the kernel of each row with itself, without the matrix.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            The diagonal of the kernel matrix.
        """
        diagonals = kernel_diagonal(
            self._network(), np.atleast_2d(X), image_shape=self.image_shape
        )
        return getattr(diagonals, self._kind()).numpy()

    def is_stationary(self) -> bool:
        """Return False: the kernel depends on more than the difference of rows.

        Returns
        -------
        bool
            False.
        """
        return False

    def __repr__(self) -> str:
        if not isinstance(self.architecture, str):
            return f"NeuralKernel({self.architecture!r}, kind={self.kind!r})"
        return (
            f"NeuralKernel({self.architecture!r}, kind={self.kind!r}, "
            f"depth={self.depth!r}, activation={self.activation!r}, "
            f"weight_std={self.weight_std:.3g}, bias_std={self.bias_std:.3g})"
        )

    def _kind(self) -> str:
        check_option("kind", self.kind, ("nngp", "ntk"))
        return self.kind

    def _network(self, **stds: torch.Tensor) -> Layer | ForeignKernel:
        """Return the network, with a tensor in the place of a std."""
        for name in _STDS:
            check_scale(name, getattr(self, name))
        values: dict[str, Any] = {name: getattr(self, name) for name in _STDS}
        return as_network(
            self.architecture,
            depth=self.depth,
            activation=self.activation,
            image_shape=self.image_shape,
            **(values | stds),
        )
