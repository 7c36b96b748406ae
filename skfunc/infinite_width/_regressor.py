"""The regressor of infinite width."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.callback import with_callbacks
from sklearn.utils.validation import check_is_fitted, validate_data

from skfunc._validation import check_integer, check_weights
from skfunc.base import FunctionRegressorMixin
from skfunc.infinite_width._estimator import BaseInfiniteWidth, times_of
from skfunc.predictive import Gaussian

Array = NDArray[np.float64]


class InfiniteWidthRegressor(FunctionRegressorMixin, BaseInfiniteWidth):
    r"""Regressor that is a neural network of infinite width, in closed form.

    At infinite width a network is a Gaussian process, and training it is linear: the
    mean and the covariance of an ensemble of infinitely many trained networks have a
    closed form at every training time. X and y are standardized inside. Depth,
    activation, standard deviations of weights and biases, the relevance of every
    column and the ridge are chosen within the fit, in closed form or by the gradient
    of the log marginal likelihood.

    Parameters
    ----------
    architecture : {"mlp", "conv", "wide_resnet"} or Layer or callable, default="mlp"
        The network: a preset of `skfunc.infinite_width.layers.preset`, a network built
        from `skfunc.infinite_width.layers`, or a ``kernel_fn`` of neural-tangents.
    kernel : {"nngp", "ntk"}, default="nngp"
        "nngp": the Gaussian process of the network, which is also the ensemble of
        networks whose last layer alone is trained. "ntk": the ensemble of networks
        whose layers are all trained by gradient descent.
    depth : int or "auto", default="auto"
        Hidden layers of a preset, or its blocks in a group.
    activation : str or "auto", default="auto"
        Activation of a preset: "relu", "leaky_relu", "abs", "erf", "gelu", "sin",
        "cos", "rbf", "sigmoid".
    weight_std, bias_std : float or "auto", default="auto"
        Standard deviations of the weights and biases of a preset.
    linear_std : float or "auto", default="auto"
        Standard deviation of the weights of a linear path from input to output beside
        a preset; 0 for none.
    relevance : {"auto", None}, default="auto"
        "auto" scales every column by a factor of its own, if rows left out are
        predicted better for it; None treats columns alike. Not for images and
        networks given as layers.
    alpha : float or "auto", default="auto"
        Ridge: the variance of the noise, in units of the mean of the kernel's diagonal.
    amplitude : float or "auto", default="auto"
        Factor on the kernel (and on the noise) for the standardized targets; "auto"
        maximizes the marginal likelihood. The mean does not depend on it.
    training_time : float, "auto" or None, default=None
        Time of training by gradient descent, in steps at `learning_rate`; None trains
        to the end, "auto" chooses by rows left out.
    learning_rate : float, default=1.0
        Rate of gradient descent, which only scales the time.
    selection : {"lml", "loo"} or None, default="lml"
        What decides on all that is "auto": the log marginal likelihood, or the
        density of rows left out (their squared error for "ntk"). None leaves it at
        fixed defaults.
    solver : {"auto", "cholesky", "eigh"}, default="auto"
        "cholesky" factors the kernel matrix, "eigh" decomposes it, which costs more
        and then serves every ridge and time; "auto" takes what is needed.
    image_shape : tuple of int (channels, height, width), default=None
        Shape of the images that the rows of X are.
    dtype : {"float64", "float32"}, default="float64"
        Precision of the kernel; linear systems are solved in float64.
    device : str or torch.device, default="auto"
        Where kernels are computed; "auto" is CUDA where there is one.
    random_state : int, RandomState or None, default=None
        Chooses the rows that hyperparameters are compared on when there are more than
        some hundreds.

    Attributes
    ----------
    activation_, depth_, weight_std_, bias_std_, linear_std_
        The chosen hyperparameters of a preset.
    relevance_ : ndarray of shape (n_features,)
        Factors on the standardized columns.
    alpha_ : float
        The chosen ridge, in units of the mean of the kernel's diagonal.
    ridge_ : float
        The same in units of the kernel, jitter included.
    amplitude_ : ndarray of shape (n_targets,)
        Factors on the kernel.
    noise_variance_ : ndarray of shape (n_targets,)
        Variance of the noise of standardized targets.
    training_time_ : float
        Training time, inf for training to the end.
    alphas_ : ndarray of shape (n_distinct_rows, n_targets)
        Coefficients; the mean is their product with a kernel block.
    X_train_, y_train_, sample_weight_ : ndarray
        Distinct training rows, standardized, and their weights.
    row_index_ : ndarray of shape (n_samples,)
        Position of every row of X among them, -1 for a row of weight zero.
    candidates_ : list of dict
        What was compared, with scores in nats a row.
    X_mean_, X_scale_ : ndarray of shape (n_features,)
        Weighted moments that X is standardized by; one for a channel of images.
    y_mean_, y_scale_ : ndarray of shape (n_targets,)
        The same of y.
    n_targets_ : int
        Columns of y.

    Raises
    ------
    ValueError
        By fit, on an unknown option, a network that does not fit the data, or a kernel
        that overflows.

    Warns
    -----
    scipy.linalg.LinAlgWarning
        If the kernel matrix is singular and the ridge had to be raised.

    See Also
    --------
    InfiniteWidthClassifier : The same for classes.
    NeuralKernel : The kernel for scikit-learn's own Gaussian processes.
    sklearn.gaussian_process.GaussianProcessRegressor : Gaussian processes with kernels
        of a fixed form.

    Notes
    -----
    With a kernel G, ridge :math:`\lambda`, rate :math:`\eta` and N entries of y, the
    mean at time t is :math:`G_{*x} (G + \lambda I)^{-1} (I - e^{-\eta (G + \lambda I)
    t / N}) y` [1]_. A given time means less progress with more targets, since the loss
    is a mean over all entries of y.

    The standard deviation is that of an observation: it adds the ridge's noise to the
    posterior of "nngp", and the mean square of residuals of rows left out to the
    ensemble of "ntk", in which there is no noise. A row of weight w stands for w
    copies, which is noise of variance :math:`\lambda / w`; equal rows are merged.

    References
    ----------
    .. [1] J. Lee, L. Xiao, S. S. Schoenholz, Y. Bahri, R. Novak, J. Sohl-Dickstein,
           J. Pennington, "Wide neural networks of any depth evolve as linear models
           under gradient descent", 2019, arXiv:1902.06720.
    .. [2] R. Novak, L. Xiao, J. Hron, J. Lee, A. A. Alemi, J. Sohl-Dickstein,
           S. S. Schoenholz, "Neural tangents: fast and easy infinite neural networks
           in Python", 2020, arXiv:1912.02803.
    .. [3] C. E. Rasmussen, C. K. I. Williams, "Gaussian processes for machine
           learning", 2006, chapter 5.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skfunc import InfiniteWidthRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = InfiniteWidthRegressor(random_state=0).fit(X[:400], y[:400])
    >>> mean, std = model.predict(X[400:], return_std=True)
    >>> mean.shape, std.shape
    ((42,), (42,))
    >>> model.score(X[400:], y[400:]) > 0.5
    True
    >>> model.predict(X[400:], training_time=[10, 1000, float("inf")]).shape
    (3, 42)
    """

    def __init__(
        self,
        architecture: Any = "mlp",
        *,
        kernel: str = "nngp",
        depth: Any = "auto",
        activation: str = "auto",
        weight_std: Any = "auto",
        bias_std: Any = "auto",
        linear_std: Any = "auto",
        relevance: str | None = "auto",
        alpha: Any = "auto",
        amplitude: Any = "auto",
        training_time: Any = None,
        learning_rate: float = 1.0,
        selection: str | None = "lml",
        solver: str = "auto",
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "float64",
        device: str | torch.device = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.architecture = architecture
        self.kernel = kernel
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.linear_std = linear_std
        self.relevance = relevance
        self.alpha = alpha
        self.amplitude = amplitude
        self.training_time = training_time
        self.learning_rate = learning_rate
        self.selection = selection
        self.solver = solver
        self.image_shape = image_shape
        self.dtype = dtype
        self.device = device
        self.random_state = random_state

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> InfiniteWidthRegressor:
        """Choose hyperparameters and condition the network on the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the rows; a weight of k means the same as k copies, and any
            weight w the noise of an observation divided by w.

        Returns
        -------
        self : InfiniteWidthRegressor
            The fitted estimator.
        """
        rows, targets = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True
        )
        weights = check_weights(sample_weight, rows)
        self._check_parameters(rows.shape[1])
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        targets = np.asarray(targets, dtype=np.float64).reshape(len(rows), -1)
        self.n_targets_ = targets.shape[1]
        self._fit_process(rows, targets, weights, scale_targets=True)
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=dict
        )
        return self

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (*super()._fitted_attributes(), "n_targets_")

    def _check_fitted_state(self) -> None:
        check_integer("n_targets_", self.n_targets_)
        super()._check_fitted_state()

    def _predictive(self, X: Array, **options: Any) -> Gaussian:
        time = options.get("training_time")
        times = [self.training_time_] if time is None else times_of(time)
        return self._path(X, times)[0]

    def _path(self, X: Array, times: list[float]) -> list[Gaussian]:
        """Return the predictive distribution at every time."""
        seen = self._seen(X)
        process = self._process()
        alphas = [
            self.alphas_ if time == self.training_time_ else process.alphas(time)
            for time in times
        ]
        means = process.means(seen, np.hstack(alphas))
        return [
            self._gaussian(process, seen, mean, time)
            for mean, time in zip(
                np.split(means, len(times), axis=1), times, strict=True
            )
        ]

    def _gaussian(self, process: Any, X: Array, mean: Array, time: float) -> Gaussian:
        scale = self.amplitude_ * np.square(self.y_scale_)
        noise = self.noise_variance_
        if self.kernel == "ntk" and time != self.training_time_:
            noise = self._left_out_variance(process, time)
        return Gaussian(
            self.y_mean_ + self.y_scale_ * mean,
            lambda: process.variances(X, time)[:, None] * scale,
            np.broadcast_to(np.square(self.y_scale_) * noise, mean.shape),
            lambda: process.covariance(X, time)[:, :, None] * scale,
            squeeze=self.n_targets_ == 1,
        )

    def predict(
        self,
        X: ArrayLike,
        return_std: bool = False,
        return_cov: bool = False,
        *,
        training_time: ArrayLike | None = None,
    ) -> Any:
        """Predict the mean, and how sure it is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.
        return_std : bool, default=False
            Also return the standard deviation of an observation.
        return_cov : bool, default=False
            Also return the covariance of observations over rows; its diagonal is the
            squared standard deviation.
        training_time : float or list of float, default=None
            Predict as after this time of training instead of the fit's, inf for the
            end. A list gives all results a leading axis of times.

        Returns
        -------
        mean : ndarray of shape ([n_times,] n_samples[, n_targets])
            In units of y.
        std : ndarray of shape ([n_times,] n_samples[, n_targets])
            Only with `return_std`.
        cov : ndarray of shape ([n_times,] n_samples, n_samples[, n_targets])
            Only with `return_cov`.

        Raises
        ------
        RuntimeError
            If `return_std` and `return_cov` are both asked for.
        ValueError
            If a time is negative or no number.
        """
        if training_time is None or np.ndim(training_time) == 0:
            return self._predict(X, return_std, return_cov, training_time=training_time)
        if return_std and return_cov:
            raise RuntimeError("return_std and return_cov cannot both be asked for")
        path = self._path(self._check_rows(X), times_of(training_time))
        means = np.stack([predictive.mean() for predictive in path])
        if return_std:
            return means, np.stack([predictive.std() for predictive in path])
        if return_cov:
            return means, np.stack([predictive.cov() for predictive in path])
        return means

    def loo_predict(self, return_std: bool = False) -> Any:
        """Predict every training row from the others, without fitting again.

        Of a row that was given more than once, or with a weight above one, one copy is
        left out. At a finite training time it is an approximation, exact in the limits
        of no and of endless training. Hyperparameters stay as they are.

        Parameters
        ----------
        return_std : bool, default=False
            Also return the standard deviation of the observation left out.

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_targets)
            Predictions for the rows given to fit, in their order; for rows of weight
            zero NaN.
        std : ndarray of the same shape
            Only with `return_std`.
        """
        check_is_fitted(self)
        residuals, variances = self._process().leave_one_out(self.training_time_)
        mean = self.y_mean_ + self.y_scale_ * (self.y_train_ - residuals)
        if self.kernel == "nngp" and variances is not None:
            std = np.sqrt(self.amplitude_ * variances[:, None])
        else:
            std = np.broadcast_to(
                np.sqrt(self._left_out_variance(self._process(), self.training_time_)),
                mean.shape,
            )
        if not return_std:
            return self._in_given_order(mean)
        return self._in_given_order(mean), self._in_given_order(std * self.y_scale_)

    def _in_given_order(self, values: Array) -> Array:
        values = np.where(
            (self.row_index_ >= 0)[:, None], values[self.row_index_], math.nan
        )
        return values[:, 0] if self.n_targets_ == 1 else values

    @property
    def log_marginal_likelihood_(self) -> float:
        """Log density of y under the Gaussian process with the fitted kernel.

        In nats, for y in its own units, summed over targets; `amplitude_` and the
        ridge included. For an NTK it is the likelihood of a Gaussian process with that
        kernel, not of the ensemble.
        """
        process = self._process()
        solution = process.solution()
        total = float(self.sample_weight_.sum())
        quadratic = np.einsum("ij,ij->j", self.y_train_, solution.alphas)
        value = -0.5 * float(
            (quadratic / self.amplitude_).sum()
            + self.n_targets_ * (solution.log_determinant() + total * _LOG_2PI)
            + total * np.log(self.amplitude_).sum()
        )
        return value - total * float(np.log(self.y_scale_).sum())


_LOG_2PI = math.log(2 * math.pi)
