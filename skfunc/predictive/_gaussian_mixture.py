"""Equally weighted Gaussians."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from skfunc.predictive._mixture import Mixture

_LOG_2PI = float(np.log(2.0 * np.pi))


class GaussianMixture(Mixture):
    """Equally weighted Gaussians; component s is one function plus its noise.

    Parameters
    ----------
    means : ndarray of shape (S, n, k)
        Function values of each component.
    noise_std : ndarray of shape (S, n, k)
        Standard deviation of an observation around each function.
    squeeze : bool
        Whether results leave out the target axis.
    """

    def _noise_cdf(self, z: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
        return special.ndtr(z)

    def _noise_quantiles(
        self, levels: NDArray[np.float64], rows: slice
    ) -> NDArray[np.float64]:
        return special.ndtri(levels)

    def _noise_log_density(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        return -0.5 * (z * z + _LOG_2PI)

    def _draw_noise(
        self, draws: NDArray[np.intp], random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        return random_state.standard_normal((len(draws), *self.means.shape[1:]))
