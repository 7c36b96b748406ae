"""Base distributions of a flow, fitted to rows: a normal, a mixture, a kernel density.

Each is a mixture of Gaussians; see `skfunc.nn.GaussianComponents`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from skfunc.nn import GaussianComponents, StackedComponents

Array = NDArray[np.float64]

# Added to the variances of a mixture, for rows of about unit variance.
_REGULARIZATION = 1e-6
# A larger mixture is not tried once this many sizes did not lower the criterion.
_PATIENCE = 3
# Fewer rows are a Gaussian's.
_FEWEST_ROWS_TO_CHOOSE = 10
# Rows that mixtures are fitted to at most; more do not move a few components.
_MIXTURE_ROWS = 20_000
# Rows from which a kernel density is no candidate: each would be a component.
KERNEL_ROWS = 5000
# Bandwidths tried, as factors on Scott's rule, as powers of e.
_LOG_BANDWIDTHS = (-3.5, 1.5)
# Expectation-maximization steps of the shares, and the share that counts as none.
_STACKING_STEPS, _SMALLEST_SHARE = 300, 0.01
# Smallest density that counts, beside the best of a row.
_SMALLEST_DENSITY = 1e-200
# Standard deviations of the normals that a flow's base is mixed of.
_WIDTHS = (0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 4.0)
# Numbers in a block of distances.
_BLOCK_NUMBERS = 4_000_000


@dataclass(frozen=True)
class Part:
    """A mixture of Gaussians that stands in a base, and what it was fitted as."""

    kind: str
    means: Array
    weights: Array
    cholesky: Array

    def components(self) -> GaussianComponents:
        """Return the distribution, in float64 on the CPU."""
        return GaussianComponents(
            *(torch.as_tensor(a) for a in (self.means, self.weights, self.cholesky))
        )


@dataclass(frozen=True)
class Base:
    """Parts of a fitted base, and their shares."""

    parts: tuple[Part, ...]
    shares: Array

    def components(self) -> StackedComponents:
        """Return the distribution, in float64 on the CPU."""
        return StackedComponents(
            [part.components() for part in self.parts],
            torch.as_tensor(self.shares),
            self.kernels,
        )

    @property
    def kernels(self) -> list[bool]:
        """Which parts have a component at each training row."""
        return [part.kind == "kernel" for part in self.parts]

    @property
    def n_components(self) -> int:
        """Components of all parts."""
        return sum(len(part.means) for part in self.parts)

    def log_prob(self, rows: Array) -> Array:
        """Return log densities, in bounded memory."""
        components = self.components()
        step = max(1, _BLOCK_NUMBERS // (self.n_components * rows.shape[1]))
        parts = [
            components.log_prob(torch.as_tensor(rows[start : start + step])).numpy()
            for start in range(0, max(len(rows), 1), step)
        ]
        return np.concatenate(parts)


@dataclass(frozen=True)
class MixtureForm:
    """Number of components, and the kind of their covariances."""

    n_components: int
    covariance_type: str

    def fit(self, rows: Array, seed: int) -> GaussianMixture:
        """Return the fitted mixture."""
        mixture = GaussianMixture(
            self.n_components,
            covariance_type=self.covariance_type,
            reg_covar=_REGULARIZATION,
            random_state=seed,
        )
        # The k-means start has no other array library's form.
        with warnings.catch_warnings(), config_context(array_api_dispatch=False):
            # EM that has not settled is a mixture too, and is judged by its likelihood.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return mixture.fit(rows)

    def part(self, rows: Array, seed: int) -> Part:
        """Return the mixture fitted to rows."""
        mixture = self.fit(_at_most(rows, _MIXTURE_ROWS, seed), seed)
        size = rows.shape[1]
        covariances = mixture.covariances_
        if self.covariance_type == "diag":
            covariances = np.stack([np.diag(row) for row in covariances])
        elif self.covariance_type == "tied":
            covariances = covariances[None]
        elif self.covariance_type == "spherical":
            covariances = np.stack([v * np.eye(size) for v in covariances])
        cholesky = np.linalg.cholesky(covariances)
        return Part("mixture", mixture.means_, mixture.weights_, cholesky)


def choose_mixture(rows: Array, max_components: int, seed: int) -> MixtureForm:
    """Return the mixture of least Bayesian information criterion."""
    rows = _at_most(rows, _MIXTURE_ROWS, seed)
    best, least = MixtureForm(1, "full"), np.inf
    for covariance_type in ("full", "diag"):
        own_least, waited = np.inf, 0
        for n_components in range(1, min(max_components, len(rows)) + 1):
            form = MixtureForm(n_components, covariance_type)
            criterion = form.fit(rows, seed).bic(rows)
            if criterion < least:
                best, least = form, criterion
            waited = 0 if criterion < own_least else waited + 1
            own_least = min(own_least, criterion)
            if waited >= _PATIENCE:
                break
    return best


@dataclass(frozen=True)
class KernelForm:
    """Bandwidth of a Gaussian kernel, alike in all directions or as the rows vary."""

    bandwidth: float
    follows_covariance: bool

    def factor(self, rows: Array) -> Array:
        """Return the Cholesky factor of the covariance at bandwidth 1."""
        size = rows.shape[1]
        if not self.follows_covariance:
            return np.eye(size)
        covariance = np.cov(rows.T, ddof=0).reshape(size, size)
        covariance = covariance + _REGULARIZATION * np.eye(size)
        return np.linalg.cholesky(covariance).astype(np.float64)

    def part(self, rows: Array, seed: int = 0) -> Part:
        """Return the kernel density of rows."""
        del seed
        weights = np.full(len(rows), 1.0 / len(rows))
        return Part("kernel", rows, weights, self.bandwidth * self.factor(rows)[None])


def choose_kernel(rows: Array, follows_covariance: bool) -> tuple[KernelForm, Array]:
    """Return the kernel of the best leave-one-out likelihood, and that of each row."""
    n, size = rows.shape
    scott = n ** (-1.0 / (size + 4))
    factor = KernelForm(1.0, follows_covariance).factor(rows)
    white = np.linalg.solve(factor, rows.T).T
    squares = cdist(white, white, "sqeuclidean")
    # A row's copies say no more of its density than it does itself.
    squares[squares < 1e-20] = np.inf
    constant = np.log(np.diag(factor)).sum() + 0.5 * size * np.log(2 * np.pi)
    constant += np.log(n - 1)

    def log_prob(log_scale: float) -> Array:
        bandwidth = scott * np.exp(log_scale)
        logs = logsumexp(-0.5 / bandwidth**2 * squares, axis=1)
        return logs - constant - size * np.log(bandwidth)

    result = optimize.minimize_scalar(
        lambda log_scale: -log_prob(log_scale).mean(),
        bounds=_LOG_BANDWIDTHS,
        method="bounded",
        options={"xatol": 0.05},
    )
    form = KernelForm(float(scott * np.exp(result.x)), follows_covariance)
    return form, log_prob(result.x)


@dataclass(frozen=True)
class BackgroundForm:
    """A wide Gaussian around all rows: a rare row costs no more than its rarity."""

    factor: float = 3.0

    def part(self, rows: Array, seed: int = 0) -> Part:
        """Return the Gaussian fitted to rows, widened."""
        del seed
        factor = KernelForm(1.0, True).factor(rows)
        means = rows.mean(axis=0, keepdims=True)
        return Part("background", means, np.ones(1), self.factor * factor[None])


@dataclass(frozen=True)
class NormalForm:
    """A normal of independent columns, whatever the rows."""

    scale: float = 1.0

    def part(self, rows: Array, seed: int = 0) -> Part:
        """Return the normal."""
        del seed
        size = rows.shape[1]
        cholesky = self.scale * np.eye(size)[None]
        return Part("normal", np.zeros((1, size)), np.ones(1), cholesky)


Form = MixtureForm | KernelForm | BackgroundForm | NormalForm


@dataclass(frozen=True)
class BaseForm:
    """What a base is made of, chosen on some rows, to be fitted to others."""

    forms: tuple[Form, ...]
    shares: Array
    log_prob: Array | None = None

    def fit(self, rows: Array, seed: int) -> Base:
        """Return the base fitted to rows."""
        parts = tuple(form.part(rows, seed) for form in self.forms)
        return Base(parts, self.shares)


def choose_base(
    rows: Array,
    kind: str,
    max_components: int,
    folds: NDArray[np.intp],
    seed: int,
) -> BaseForm:
    """Choose the parts of a base and their shares by the rows' densities, unseen.

    Parameters
    ----------
    rows : ndarray of shape (rows, size)
        Rows of about unit variance.
    kind : {"auto", "mixture", "kernel"}
        Parts that may be used, besides the background.
    max_components : int
        Most Gaussians of the mixture.
    folds : ndarray of int of shape (rows,)
        Folds that the rows are dealt into, each judged by fits to the others.
    seed : int
        Starts the mixtures.

    Returns
    -------
    BaseForm
        Parts, shares, and the log density of each row under fits without it; of very
        few rows a Gaussian, without these.
    """
    if len(rows) < _FEWEST_ROWS_TO_CHOOSE:
        few = (MixtureForm(1, "full"), BackgroundForm())
        shares = np.array([len(rows), 1.0]) / (len(rows) + 1.0)
        return BaseForm(few, shares)
    forms: list[Form] = []
    logs: list[Array] = []

    def add(form: Form, log_prob: Array | None = None) -> None:
        if log_prob is None:
            log_prob = np.empty(len(rows))
            for k in np.unique(folds):
                part = form.part(rows[folds != k], seed)
                unseen = folds == k
                log_prob[unseen] = Base((part,), np.ones(1)).log_prob(rows[unseen])
        forms.append(form)
        logs.append(log_prob)

    if kind in ("auto", "mixture"):
        chosen = choose_mixture(rows, max_components, seed)
        add(chosen)
        if chosen.n_components > 1 and kind == "auto":
            add(MixtureForm(1, "full"))
    if kind == "kernel" or (kind == "auto" and len(rows) <= KERNEL_ROWS):
        for follows in (False, True):
            add(*choose_kernel(rows, follows))
    add(BackgroundForm())
    table = np.stack(logs, axis=1)
    shares = stacking_shares(table)
    kept = shares > 0
    log_prob = logsumexp(table[:, kept] + np.log(shares[kept]), axis=1)
    return BaseForm(
        tuple(form for form, k in zip(forms, kept, strict=True) if k),
        shares[kept],
        log_prob,
    )


def widened_normal(rows: Array, folds: NDArray[np.intp]) -> BaseForm:
    """Return a mixture of normals of several widths, for rows that a flow did not see.

    Rows that a flow was trained on come out closer to a normal than others do: the
    shares tell how much wider the others lie, and how heavy their tails are.

    Parameters
    ----------
    rows : ndarray of shape (rows, size)
        Unseen rows carried to the base.
    folds : ndarray of int of shape (rows,)
        Folds that the rows are dealt into, each judged by the shares of the others.

    Returns
    -------
    BaseForm
        The mixture, and the log density of each row under the shares of the others.
    """
    forms = tuple(NormalForm(scale) for scale in _WIDTHS)
    table = np.stack(
        [Base((form.part(rows),), np.ones(1)).log_prob(rows) for form in forms], axis=1
    )
    log_prob = np.empty(len(rows))
    for k in np.unique(folds):
        shares = stacking_shares(table[folds != k])
        with np.errstate(divide="ignore"):
            log_prob[folds == k] = logsumexp(table[folds == k] + np.log(shares), axis=1)
    shares = stacking_shares(table)
    kept = shares > 0
    chosen = tuple(form for form, k in zip(forms, kept, strict=True) if k)
    return BaseForm(chosen, shares[kept], log_prob)


def stacking_shares(log_densities: Array) -> Array:
    """Return the shares of models that make rows they did not see most likely.

    Parameters
    ----------
    log_densities : ndarray of shape (rows, models)
        The last model is the background, which always keeps a share.

    Returns
    -------
    ndarray of shape (models,)
        Sums to 1; models that add nothing get 0.
    """
    n, models = log_densities.shape
    shares = np.full(models, 1.0 / models)
    densities = np.exp(log_densities - log_densities.max(axis=1, keepdims=True))
    densities = np.maximum(densities, _SMALLEST_DENSITY)
    for _ in range(_STACKING_STEPS):
        weighed = densities * shares
        each = (weighed / weighed.sum(axis=1, keepdims=True)).sum(axis=0)
        # One more row is granted to the background.
        each[-1] += 1.0
        shares = each / (n + 1.0)
    shares[:-1][shares[:-1] < _SMALLEST_SHARE] = 0.0
    return shares / shares.sum()


def _at_most(rows: Array, limit: int, seed: int) -> Array:
    if len(rows) <= limit:
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), limit, replace=False)
    return rows[chosen]
