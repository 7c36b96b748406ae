"""Functions through several rows: by a latent, in closed form, or row by row."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skfunc._shapes import Float
from skfunc.neural_process._marginals import LikelihoodMarginals
from skfunc.nn import KernelNeuralProcess, NeuralProcess, autoregressive_sample
from skfunc.predictive import GaussianMixture

Array = NDArray[np.float64]
RandomState = np.random.RandomState

# Draws that moments are estimated from where there is no closed form.
_DRAWS = 64
# Rows whose variances are computed at once from their covariance.
_ROWS = 256


class LatentFunctions:
    """A function for each draw of the latent, at every row.

    Parameters
    ----------
    marginals : LikelihoodMarginals
        What is said of rows given each draw.
    """

    def __init__(self, marginals: LikelihoodMarginals) -> None:
        self.marginals = marginals
        self.mixture = GaussianMixture(marginals.means(), marginals.stds(), False)

    def draw(self, n_samples: int, random_state: RandomState) -> Array:
        """Draw functions, (n, k, n_samples)."""
        return self.mixture.sample_functions(n_samples, random_state)

    def draw_observations(self, n_samples: int, random_state: RandomState) -> Array:
        """Draw observations, all rows given the same latent, (n, k, n_samples)."""
        marginals = self.marginals
        chosen = random_state.randint(len(marginals.raw), size=n_samples)
        generator = seeded(random_state)
        values = marginals.likelihood.sample(marginals.raw[chosen], generator).numpy()
        values = marginals.shift[chosen] + marginals.scale * values
        return np.moveaxis(values, 0, -1)

    def variance(self) -> Array:
        """Return the variance of functions at each row, (n, k)."""
        return self.mixture.means.var(axis=0)

    def covariance(self) -> Array:
        """Return the covariance of functions over rows, (n, n, k)."""
        centred = self.mixture.means - self.mixture.means.mean(axis=0)
        return np.einsum("sik,sjk->ijk", centred, centred) / len(centred)


class ClosedFormFunctions:
    """Gaussian processes with the kernels that a network inferred, by their weights.

    Parameters
    ----------
    network : KernelNeuralProcess
        The network.
    state : named tuple
        Its encoded context.
    X : ndarray of shape (n, n_features)
        Standardized rows.
    marginals : LikelihoodMarginals
        What is said of the rows.
    """

    def __init__(
        self,
        network: KernelNeuralProcess,
        state: Any,
        X: Array,
        marginals: LikelihoodMarginals,
    ) -> None:
        self.network, self.state, self.X = network, state, X
        self.marginals = marginals

    def _posterior(self, X: Array) -> tuple[Array, Array, Array, Array]:
        """Return weights (K,), means (k, K, n), covariances and noise (k, K)."""
        with torch.no_grad():
            joint = self.network.joint_posterior(
                self.state, torch.as_tensor(X, dtype=torch.float64)[None]
            )
        weights = joint.log_weights[0].exp().numpy()
        return (
            weights / weights.sum(),
            joint.mean[0].numpy(),
            joint.covariance[0].numpy(),
            joint.noise[0].numpy(),
        )

    def _draw(
        self, n_samples: int, random_state: RandomState, *, is_noisy: bool
    ) -> Array:
        weights, means, covariances, noise = self._posterior(self.X)
        chosen = random_state.choice(len(weights), size=n_samples, p=weights)
        normals = random_state.standard_normal((2, len(self.X), len(means), n_samples))
        values = np.empty(normals.shape[1:])
        for component in np.unique(chosen):
            of_it = chosen == component
            for target, mean in enumerate(means[:, component]):
                # The root by eigenvalues takes a semi-definite matrix.
                size, vectors = np.linalg.eigh(covariances[target, component])
                root = vectors * np.sqrt(np.clip(size, 0.0, None))
                drawn = mean[:, None] + root @ normals[0, :, target, of_it].T
                if is_noisy:
                    deviation = noise[target, component]
                    drawn = drawn + deviation * normals[1, :, target, of_it].T
                values[:, target, of_it] = drawn
        shift = self.marginals.shift[0][..., None]
        return shift + self.marginals.scale[:, None] * values

    def draw(self, n_samples: int, random_state: RandomState) -> Array:
        """Draw functions, each of one kernel, (n, k, n_samples)."""
        return self._draw(n_samples, random_state, is_noisy=False)

    def draw_observations(self, n_samples: int, random_state: RandomState) -> Array:
        """Draw functions and their kernel's noise, (n, k, n_samples)."""
        return self._draw(n_samples, random_state, is_noisy=True)

    def _covariance_of(self, X: Array) -> Array:
        """Return the covariance by the law of total variance, (n, n, k)."""
        weights, means, covariances, _ = self._posterior(X)
        centred = means - np.einsum("c,kcn->kn", weights, means)[:, None]
        within = np.einsum("c,kcij->ijk", weights, covariances)
        between = np.einsum("c,kci,kcj->ijk", weights, centred, centred)
        return np.square(self.marginals.scale) * (within + between)

    def variance(self) -> Array:
        """Return the variance of functions at each row, (n, k)."""
        parts = [
            np.einsum("iik->ik", self._covariance_of(self.X[i : i + _ROWS]))
            for i in range(0, len(self.X), _ROWS)
        ]
        return np.clip(np.concatenate(parts), 0.0, None)

    def covariance(self) -> Array:
        """Return the covariance of functions over rows, (n, n, k)."""
        return self._covariance_of(self.X)


class RowByRowFunctions:
    """Functions of a network that predicts each row alone, by the chain rule.

    In a random order each row is drawn from its prediction and joins the context of
    the next [1]_; the prediction given all that was drawn is the function without its
    noise.

    Parameters
    ----------
    network : NeuralProcess
        A network without latent.
    context : tuple of ndarray
        Standardized rows and targets.
    X : ndarray of shape (n, n_features)
        Standardized rows to draw at.
    marginals : LikelihoodMarginals
        What is said of the rows.

    References
    ----------
    .. [1] W. P. Bruinsma, S. Markou, J. Requeima, A. Y. K. Foong, T. R. Andersson,
           A. Vaughan, A. Buonomo, J. S. Hosking, R. E. Turner, "Autoregressive
           conditional neural processes", 2023, arXiv:2303.14468.
    """

    def __init__(
        self,
        network: NeuralProcess,
        context: tuple[Array, Array],
        X: Array,
        marginals: LikelihoodMarginals,
    ) -> None:
        self.network, self.context, self.X = network, context, X
        self.marginals = marginals

    def _chain(
        self, n_samples: int, random_state: RandomState
    ) -> Float[Tensor, "draws rows targets"]:
        # In a random order, or errors would add up along rows that are sorted.
        order = random_state.permutation(len(self.X))
        drawn = autoregressive_sample(
            self.network,
            self.marginals.likelihood,
            *context_tensors(*self.context),
            torch.as_tensor(self.X[order][None]),
            n_samples=n_samples,
            generator=seeded(random_state),
        )
        return drawn[:, 0, np.argsort(order)]

    def draw(self, n_samples: int, random_state: RandomState) -> Array:
        """Draw functions, (n, k, n_samples)."""
        x, y, _ = context_tensors(*self.context)
        target = torch.as_tensor(self.X[None])
        marginals = self.marginals
        with torch.no_grad():
            seen = self._chain(n_samples, random_state)
            state = self.network.encode(
                torch.cat([x, target], dim=1).expand(n_samples, -1, -1),
                torch.cat([y.expand(n_samples, -1, -1), seen], dim=1),
                torch.ones(n_samples, x.shape[1] + len(self.X), dtype=torch.bool),
            )
            raw = self.network.decode(state, target.expand(n_samples, -1, -1))
            means = marginals.likelihood.mean(raw).numpy()
        return np.moveaxis(marginals.y_mean + marginals.y_scale * means, 0, -1)

    def draw_observations(self, n_samples: int, random_state: RandomState) -> Array:
        """Draw observations that hang together, (n, k, n_samples)."""
        with torch.no_grad():
            values = self._chain(n_samples, random_state).numpy()
        values = self.marginals.shift + self.marginals.scale * values
        return np.moveaxis(values, 0, -1)

    @cached_property
    def _centred(self) -> Float[np.ndarray, "rows targets draws"]:
        # The same draws at every call: a prediction asked for twice is the same.
        draws = self.draw(_DRAWS, np.random.RandomState(0))
        return draws - draws.mean(axis=-1, keepdims=True)

    def variance(self) -> Array:
        """Return the variance of functions at each row, estimated, (n, k)."""
        return np.square(self._centred).mean(axis=-1)

    def covariance(self) -> Array:
        """Return the covariance of functions over rows, estimated, (n, n, k)."""
        return np.einsum("iks,jks->ijk", self._centred, self._centred) / _DRAWS


def context_tensors(X: Array, y: Array) -> tuple[Tensor, Tensor, Tensor]:
    """Return a context as one task's tensors."""
    return (
        torch.as_tensor(X[None]),
        torch.as_tensor(y[None]),
        torch.ones(1, len(X), dtype=torch.bool),
    )


def seeded(random_state: RandomState) -> torch.Generator:
    """Return torch's generator that follows from a RandomState."""
    return torch.Generator().manual_seed(int(random_state.randint(2**31 - 1)))
