"""The SDE-BNN regressor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special
from torch import Tensor, nn
from torch.distributions import StudentT

from skfunc._member_regressor import MemberRegressor, ResidualLoss, log_variance
from skfunc._shapes import Float
from skfunc._validation import check_option
from skfunc.predictive import Predictive, StudentMixture
from skfunc.sde._sdebnn import BaseSDEBNN, document_sde_bnn

_HALF_LOG_2PI = 0.5 * float(np.log(2.0 * np.pi))

# Bounds of the degrees of freedom: a variance exists, and all but a Gaussian's tails.
_FEWEST, _MOST = 2.5, 200.0


def _freedom(raw: Any) -> Any:
    """Return the degrees of freedom that a network's output stands for."""
    if isinstance(raw, Tensor):
        share = torch.sigmoid(raw)
        return _FEWEST * torch.exp(share * math.log(_MOST / _FEWEST))
    return _FEWEST * (_MOST / _FEWEST) ** special.expit(raw)


@document_sde_bnn
class SDEBNNRegressor(MemberRegressor, BaseSDEBNN):
    """Infinitely deep Bayesian network for numbers.

    A row's state h follows dh/dt = f(t, h; w_t) from t = 0 to 1, as in an ODE-Net, but
    the weights w_t follow a stochastic process, the prior; fit learns the posterior
    process, by its evidence lower bound [1]_. The mean and the deviation of an
    observation are read off h(1). X and y are standardized inside.

    Parameters
    ----------
    {parameters}
    likelihood : {"gaussian", "student_t"}, default="gaussian"
        Distribution of an observation around a function; its deviation, and the
        Student's degrees of freedom, are read off h(1) too.

    Attributes
    ----------
    {attributes}
    noise_scale_ : ndarray of shape (n_targets,)
        Factor on the predicted noise, fitted to rows that members never saw.
    noise_range_ : ndarray of shape (2, n_members, n_targets)
        Smallest and largest noise (raw outputs) of each member on the training rows;
        predictions stay within.
    y_mean_, y_scale_ : ndarray of shape (n_targets,)
        Weighted moments that y is standardized by.
    n_targets_ : int
        Columns of y.

    Raises
    ------
    FloatingPointError
        By fit, if the loss stays non-finite through three restarts, each from the best
        finite weights and with the learning rate halved.

    See Also
    --------
    SDEBNNClassifier : The same for classes.
    ODENetRegressor : Its limit sigma = 0.

    Notes
    -----
    The prediction is a mixture of one Gaussian for each of `n_predict_paths` weight
    paths. `predict` gives its mean and standard deviation, `predict_std_parts` the
    standard deviation between the paths (epistemic) and within them (aleatoric).

    References
    ----------
    {references}

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skfunc import SDEBNNRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SDEBNNRegressor(random_state=0).fit(X[:400], y[:400])
    >>> mean, std = model.predict(X[400:], return_std=True)
    >>> mean.shape, std.shape
    ((42,), (42,))
    >>> model.sample_y(X[400:], n_samples=3).shape
    (42, 3)
    >>> model.score(X[400:], y[400:]) > 0.5
    True
    """

    def __init__(
        self,
        *,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        state_size: int = 64,
        n_augment: int = 0,
        field: str | Callable[..., nn.Module] = "auto",
        activation: str = "silu",
        image_shape: Sequence[int] | None = None,
        n_members: int = 8,
        drift: str = "affine",
        rank: int = 16,
        sigma: float | Literal["auto"] = "auto",
        mean_reversion: float = 1.0,
        prior_mean: str = "initial",
        initial_weights: str = "point",
        n_train_paths: int = 1,
        n_predict_paths: int = 32,
        kl_weight: float = 1.0,
        kl_warmup: float = 0.0,
        stl: bool = True,
        solver: str = "ou",
        n_steps: int = 2,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        gradient: str = "backprop",
        max_nfe: int = 10_000,
        alpha: float = 1.0,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate_init: float = 1e-2,
        max_iter: int | Literal["auto"] = "auto",
        tol: float = 1e-4,
        n_iter_no_change: int = 30,
        early_stopping: bool | Literal["auto"] = "auto",
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        likelihood: str = "gaussian",
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            state_size=state_size,
            n_augment=n_augment,
            field=field,
            activation=activation,
            image_shape=image_shape,
            n_members=n_members,
            drift=drift,
            rank=rank,
            sigma=sigma,
            mean_reversion=mean_reversion,
            prior_mean=prior_mean,
            initial_weights=initial_weights,
            n_train_paths=n_train_paths,
            n_predict_paths=n_predict_paths,
            kl_weight=kl_weight,
            kl_warmup=kl_warmup,
            stl=stl,
            solver=solver,
            n_steps=n_steps,
            rtol=rtol,
            atol=atol,
            gradient=gradient,
            max_nfe=max_nfe,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate_init=learning_rate_init,
            max_iter=max_iter,
            tol=tol,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            warm_start=warm_start,
            verbose=verbose,
            random_state=random_state,
            device=device,
        )
        self.likelihood = likelihood

    def _check_parameters(self, n_features: int) -> None:
        super()._check_parameters(n_features)
        check_option("likelihood", self.likelihood, ("gaussian", "student_t"))

    def _outputs_per_target(self) -> int:
        return 2 if self.likelihood == "gaussian" else 3

    def _path_losses(
        self, outputs: Float[Tensor, "functions rows outputs"], targets: Tensor
    ) -> Float[Tensor, "functions rows"]:
        if self.likelihood == "gaussian":
            losses = self._gaussian_losses(outputs, targets)[0]
            return (losses + _HALF_LOG_2PI).sum(-1)
        mean, raw, tails = outputs.chunk(3, dim=-1)
        freedom = _freedom(tails)
        std = torch.exp(0.5 * log_variance(raw))
        scale = std * ((freedom - 2.0) / freedom).sqrt()
        return -StudentT(freedom, mean, scale, False).log_prob(targets).sum(-1)

    def _residual_loss(self, extra: NDArray[np.float64], target: int) -> ResidualLoss:
        if self.likelihood == "gaussian":
            return super()._residual_loss(extra, target)
        freedom = _freedom(extra[:, target])

        def loss(
            squared: NDArray[np.float64], variance: NDArray[np.float64]
        ) -> NDArray[np.float64]:
            tails = np.log1p(squared / variance / (freedom - 2.0))
            return np.log(variance) + (freedom + 1.0) * tails

        return loss

    def _predictive(self, X: NDArray[np.float64], **options: Any) -> Predictive:
        if self.likelihood == "gaussian":
            return super()._predictive(X, **options)
        outputs = self._member_outputs(self._scaled(X), **options)
        means, noise = self._functions(outputs)
        freedom = _freedom(outputs[..., 2 * self.n_targets_ :])
        return StudentMixture(means, noise, self.n_targets_ == 1, freedom)

    def _finish_fit(
        self,
        outputs: NDArray[np.float64],
        targets: NDArray[Any],
        weights: NDArray[np.float64],
    ) -> None:
        super()._finish_fit(outputs, targets, weights)
        # The density of y in its own units.
        total = weights.sum(axis=1).mean()
        self.elbo_ -= float(total * np.log(self.y_scale_).sum())

    def sample_y(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
        *,
        prior: bool = False,
    ) -> NDArray[np.float64]:
        """Draw functions, without observation noise.

        Parameters
        ----------
        X : array-like of shape (n_samples_X, n_features)
            Rows to evaluate the functions at.
        n_samples : int, default=1
            How many functions; each is a new weight path.
        random_state : int, RandomState or None, default=0
            Which draws.
        prior : bool, default=False
            Whether to draw weight paths from the prior instead of the posterior.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_targets, n_samples)
            The rows of one draw belong to one function.
        """
        draws = self._draw_outputs(X, n_samples, random_state, prior)
        means = self.y_mean_ + self.y_scale_ * draws[..., : self.n_targets_]
        means = np.moveaxis(means, 0, -1)
        return means[:, 0] if self.n_targets_ == 1 else means
