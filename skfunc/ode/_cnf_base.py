"""Choice of a flow's base: which parts, at which shares, by rows they did not see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from skfunc.ode._cnf_forms import (
    MIXTURE_ROWS,
    BackgroundForm,
    Base,
    BaseForm,
    Form,
    KernelForm,
    LocalKernelForm,
    MixtureForm,
    NormalForm,
    at_most,
)

Array = NDArray[np.float64]

# A larger mixture is not tried once this many sizes did not lower the criterion.
_PATIENCE = 3
# Fewer rows are a Gaussian's.
_FEWEST_ROWS_TO_CHOOSE = 10
# Sizes of the mixtures that are stacked, by the kind of their covariances, as far as
# the most components that were allowed; those of diagonal ones may be more.
_STACKED_SIZES = {
    "full": (1, 2, 3, 4, 6, 8, 11, 15, 20, 30),
    "diag": (2, 4, 8, 15, 25, 40, 60),
    "tied": (4, 8, 15, 30),
}
_MORE_DIAGONAL = 2
# A stacked mixture has at least so many rows for each component.
_ROWS_PER_COMPONENT = 3
# Random starts of each, all of which are stacked: their mean is better than the best.
# The largest have one.
_STARTS, _LARGEST_RESTARTED = 2, {"full": 15, "diag": 40, "tied": 15}
# Rows from which a kernel density is no candidate: each would be a component. One of
# local kernels has a covariance for each, too.
KERNEL_ROWS, _LOCAL_KERNEL_ROWS = 5000, 3000
# Neighbours per column and bandwidths of the local kernels.
_LOCAL_KERNELS = ((1.0, 0.4), (1.0, 0.9), (8.0, 0.4))
# Bandwidths tried, as factors on Scott's rule, as powers of e.
_LOG_BANDWIDTHS = (-3.5, 1.5)
# Expectation-maximization steps of the shares, and the share that counts as none.
_STACKING_STEPS, _SMALLEST_SHARE = 300, 0.01
# Smallest density that counts, beside the best of a row.
_SMALLEST_DENSITY = 1e-200
# Standard deviations of the normals that a flow's base is mixed of.
_WIDTHS = (0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 4.0)


def choose_mixture(rows: Array, max_components: int, seed: int) -> MixtureForm:
    """Return the mixture of least Bayesian information criterion."""
    rows = at_most(rows, MIXTURE_ROWS, seed)
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


def stacked_mixtures(n_rows: int, max_components: int) -> list[MixtureForm]:
    """Return the mixtures that are stacked for so many rows."""
    forms = []
    for covariance_type, sizes in _STACKED_SIZES.items():
        most = max_components * (_MORE_DIAGONAL if covariance_type == "diag" else 1)
        most = min(most, n_rows // _ROWS_PER_COMPONENT)
        for size in sizes:
            again = 1 < size <= _LARGEST_RESTARTED[covariance_type]
            for start in range(_STARTS if again else 1):
                if size <= most:
                    forms.append(MixtureForm(size, covariance_type, start))
    return forms


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
    nearest = squares.min(axis=1, keepdims=True)
    # Copies alone: no other row says anything.
    nearest[~np.isfinite(nearest)] = 0.0
    squares -= nearest

    def log_prob(log_scale: float) -> Array:
        bandwidth = scott * np.exp(log_scale)
        factor = -0.5 / bandwidth**2
        kernels = np.multiply(squares, factor)
        with np.errstate(divide="ignore"):
            logs = np.log(np.exp(kernels, out=kernels).sum(axis=1))
        logs += factor * nearest[:, 0]
        return logs - constant - size * np.log(bandwidth)

    result = optimize.minimize_scalar(
        lambda log_scale: -log_prob(log_scale).mean(),
        bounds=_LOG_BANDWIDTHS,
        method="bounded",
        options={"xatol": 0.05},
    )
    form = KernelForm(float(scott * np.exp(result.x)), follows_covariance)
    return form, log_prob(result.x)


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

    if kind == "mixture":
        add(choose_mixture(rows, max_components, seed))
    if kind == "auto":
        for mixture in stacked_mixtures(len(rows), max_components):
            add(mixture)
        if len(rows) <= _LOCAL_KERNEL_ROWS:
            for neighbours, bandwidth in _LOCAL_KERNELS:
                add(LocalKernelForm(neighbours, bandwidth))
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
        each = shares * (densities.T @ (1.0 / (densities @ shares)))
        # One more row is granted to the background.
        each[-1] += 1.0
        shares = each / (n + 1.0)
    shares[:-1][shares[:-1] < _SMALLEST_SHARE] = 0.0
    return shares / shares.sum()
