"""The density estimator of continuous normalizing flows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.callback import with_callbacks
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skfunc._epoch_watch import EpochWatch
from skfunc._validation import check_integer
from skfunc.ode._cnf_documentation import document_density
from skfunc.ode._cnf_estimator import BaseCNFDensity
from skfunc.ode._cnf_fit import carried, drawn, log_densities
from skfunc.ode._cnf_forms import Base
from skfunc.ode._cnf_plan import fit_density
from skfunc.ode._cnf_rows import RowMap, fit_row_map, rounding_gaps, row_copies, spread
from skfunc.training import TrainingResult, thread_limits

Array = NDArray[np.float64]

# Rows up to which a fit runs on one thread.
_SMALL_FIT = 20_000


@document_density
class CNFDensity(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseCNFDensity
):
    r"""Density of rows by a continuous normalizing flow.

    Rows are carried along :math:`x' = v(t, x)` from t = 1 to 0, where their
    distribution is simple: a normal, or a mixture of Gaussians and kernel densities.
    By default the fit judges a flow on rows that it did not see, and keeps it only
    where it beats that mixture alone, so that the result is as good as the mixture's on
    small data and better where data are rich.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    sklearn.mixture.GaussianMixture : A mixture alone.
    sklearn.neighbors.KernelDensity : A kernel density alone.

    Notes
    -----
    With l' = tr dv/dx along the path and l(1) = 0,

    .. math:: \log p(x) = \log p_0(x(0)) - \int_0^1 \mathrm{tr} \frac{\partial v}
        {\partial x}\, dt + \log |\det A|,

    where A is the preprocessing. The field has two hidden layers, whose trace has a
    closed form: no estimate is involved, and the cost does not grow with the columns.

    A constant column, or one that is an affine function of columns before it, has no
    density of its own: it is left out, filled in by `sample`, and a row that breaks the
    relation has log density -inf. A column more than half of whose values have copies,
    and are few or on a grid, is read as rounded: fit spreads its values evenly over the
    smallest gap between two of them, as a density on atoms could grow without end.

    References
    ----------
    {references}

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skfunc import CNFDensity
    >>> X, _ = make_moons(300, noise=0.1, random_state=0)
    >>> model = CNFDensity(random_state=0, max_iter=50).fit(X)
    >>> model.score_samples(X[:3]).shape
    (3,)
    >>> model.sample(2, random_state=0).shape
    (2, 2)
    >>> z = model.transform(X[:3])
    >>> bool(abs(model.inverse_transform(z) - X[:3]).max() < 1e-3)
    True
    """

    @with_callbacks
    def fit(self, X: ArrayLike, y: Any = None) -> CNFDensity:
        """Fit the density of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows, at least two.
        y : None
            Ignored.

        Returns
        -------
        self : CNFDensity
            The fitted estimator.

        Raises
        ------
        ValueError
            If all columns are constant, or the rows are too few for the columns.
        FloatingPointError
            If the loss stays non-finite through three restarts, each from the best
            finite weights and with the learning rate halved.
        """
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self._check_parameters()
        random_state = check_random_state(self.random_state)
        seed = int(random_state.randint(2**31 - 1))
        row_map = fit_row_map(rows, self.preprocessing)
        gaps = np.zeros(rows.shape[1])
        if self.dequantize:
            gaps[row_map.kept] = rounding_gaps(rows[:, row_map.kept])
        spread_rows = spread(rows, gaps, np.random.default_rng(seed))
        inner, _ = row_map.to_flow(spread_rows)
        stack = self._build_stack(inner.shape[1])
        so_far = partial(self._so_far, row_map, gaps)
        watch = EpochWatch(self, None, lambda result: {}, (X, None))

        def on_epoch(result: TrainingResult, base: Base) -> bool:
            return watch.end(result, fitted_so_far=partial(so_far, base))

        plan = replace(self._plan(seed), on_epoch_begin=watch.begin, on_epoch=on_epoch)
        with thread_limits(small=len(inner) <= _SMALL_FIT):
            choice = fit_density(inner, row_copies(rows), plan, stack)
        self._keep(row_map, gaps, choice)
        watch.close()
        if choice.flow.interrupted:
            raise KeyboardInterrupt
        return self

    def score_samples(self, X: ArrayLike) -> Array:
        """Return the log density of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats, with respect to the columns of `columns_`, in X's units; -inf for
            rows whose other columns do not follow from these.
        """
        row_map = self._row_map_checked()
        rows, log_det = row_map.to_flow(self._check_rows(X))
        solver = self._solver_options(self.n_steps_)
        logs, _ = log_densities(
            self._stack(), self._flow(), rows, solver, self.has_flow_
        )
        return logs + log_det

    def _row_map_checked(self) -> RowMap:
        check_is_fitted(self)
        return self._row_map()

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Return the mean log density of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : None
            Ignored.

        Returns
        -------
        float
            Nats per row.
        """
        return float(self.score_samples(X).mean())

    def sample(
        self,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> Array:
        """Draw rows.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        random_state : int, RandomState or None, default=None
            Which.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In X's units.
        """
        row_map = self._row_map_checked()
        base_rows = self._base_rows(n_samples, random_state)
        return row_map.from_flow(self._from_base(base_rows))

    def trajectories(
        self,
        n_samples: int = 1,
        times: ArrayLike = (0.0, 0.25, 0.5, 0.75, 1.0),
        random_state: int | np.random.RandomState | None = None,
    ) -> Array:
        """Draw rows and return the paths that they came along.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        times : array-like of shape (n_times,), default=(0, 0.25, 0.5, 0.75, 1)
            Times from 0, the base, to 1, the rows.
        random_state : int, RandomState or None, default=None
            Which; as in `sample`.

        Returns
        -------
        ndarray of shape (n_times, n_samples, n_features)
            In X's units.

        Raises
        ------
        ValueError
            If a time is outside [0, 1].
        """
        row_map = self._row_map_checked()
        grid = np.asarray(times, dtype=np.float64).ravel()
        if not ((grid >= 0) & (grid <= 1)).all():
            raise ValueError(f"times must lie between 0 and 1; got {times!r}")
        base_rows = self._base_rows(n_samples, random_state)
        states = np.broadcast_to(base_rows, (len(grid), *base_rows.shape))
        if self.has_flow_:
            solver = self._solver_options(self.n_steps_)
            solved = sorted({0.0, 0.5, 1.0, *grid.tolist()})
            path = drawn(self._stack(), self.parameters_, base_rows, solver, solved)
            states = path[[solved.index(t) for t in grid.tolist()]]
        return np.stack([row_map.from_flow(state) for state in states])

    def _base_rows(
        self, n_samples: int, random_state: int | np.random.RandomState | None
    ) -> Array:
        n_samples = check_integer("n_samples", n_samples)
        seed = check_random_state(random_state).randint(2**31 - 1)
        generator = torch.Generator().manual_seed(int(seed))
        return self._flow().base.components().sample(n_samples, generator).numpy()

    def _from_base(self, base_rows: Array) -> Array:
        if not self.has_flow_:
            return base_rows
        solver = self._solver_options(self.n_steps_)
        return drawn(self._stack(), self.parameters_, base_rows, solver)[-1]

    def transform(self, X: ArrayLike) -> Array:
        """Carry rows to the base distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            One column for each of `columns_`.
        """
        row_map = self._row_map_checked()
        rows, _ = row_map.to_flow(self._check_rows(X))
        if not self.has_flow_:
            return rows
        solver = self._solver_options(self.n_steps_)
        parts = carried(self._stack(), self.parameters_, rows, solver)
        return np.concatenate([part.rows[0].numpy() for part in parts])

    def inverse_transform(self, X: ArrayLike) -> Array:
        """Carry rows of the base distribution back.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_out)
            Rows as `transform` returns them.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the units of fit's X.

        Raises
        ------
        ValueError
            If the rows have another width than `transform` returns.
        """
        row_map = self._row_map_checked()
        base_rows = check_array(X, dtype=np.float64)
        if base_rows.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has {base_rows.shape[1]} columns; transform returns "
                f"{self._n_features_out}"
            )
        return row_map.from_flow(self._from_base(base_rows))

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: a density, and a transformer that keeps float64."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags
