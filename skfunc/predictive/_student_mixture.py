"""Equally weighted Student-t distributions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from skfunc._shapes import Float
from skfunc.predictive._mixture import Mixture


@dataclass(frozen=True)
class StudentMixture(Mixture):
    """Equally weighted Student-t distributions: noise with heavy tails.

    Parameters
    ----------
    means : ndarray of shape (S, n, k)
        Function values of each component.
    noise_std : ndarray of shape (S, n, k)
        Standard deviation of an observation around each function.
    squeeze : bool
        Whether results leave out the target axis.
    freedom : ndarray of shape (S, n, k)
        Degrees of freedom, above 2.
    """

    freedom: Float[np.ndarray, "components rows targets"] | None = None

    def __post_init__(self) -> None:
        if self.freedom is None or not (self.freedom > 2).all():
            raise ValueError("freedom must be above 2: the noise has a variance")

    def _in_scales(self, freedom: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how many scales a standard deviation is."""
        return np.sqrt(freedom / (freedom - 2.0))

    def _noise_cdf(self, z: NDArray[np.float64], rows: slice) -> NDArray[np.float64]:
        freedom = self._freedom[:, rows, None]
        return special.stdtr(freedom, z * self._in_scales(freedom))

    def _noise_quantiles(
        self, levels: NDArray[np.float64], rows: slice
    ) -> NDArray[np.float64]:
        freedom = self._freedom[:, rows, None]
        return special.stdtrit(freedom, levels) / self._in_scales(freedom)

    def _noise_log_density(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        freedom = self._freedom
        scales = self._in_scales(freedom)
        half = 0.5 * (freedom + 1.0)
        normalizer = special.gammaln(half) - special.gammaln(0.5 * freedom)
        normalizer -= 0.5 * np.log(freedom * np.pi)
        tails = half * np.log1p(np.square(z * scales) / freedom)
        return normalizer - tails + np.log(scales)

    def _draw_noise(
        self, draws: NDArray[np.intp], random_state: np.random.RandomState
    ) -> NDArray[np.float64]:
        freedom = self._freedom[draws]
        return random_state.standard_t(freedom) / self._in_scales(freedom)

    @property
    def _freedom(self) -> NDArray[np.float64]:
        assert self.freedom is not None
        return self.freedom
