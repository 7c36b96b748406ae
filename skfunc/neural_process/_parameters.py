"""Parameters of networks and their meta-training, which three estimators share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfunc._validation import check_integer, check_option, check_real
from skfunc.neural_process._likelihoods import CONTINUOUS, bin_edges
from skfunc.neural_process._training import OBJECTIVES, MetaTraining
from skfunc.training import resolve_device

VARIANTS = ("cnp", "np", "anp", "convcnp", "tnp", "lbanp", "kernel")
_LATENT = ("np", "anp")
# Hypotheses of "kernel", one component of a mixture each.
_KERNELS = ("matern52", "rbf", "matern12", "arcsine")
# Bins are two tails and at least one between them.
_FEWEST_BINS = 3


def check_training_parameters(estimator: Any, n_features: int) -> None:
    """Check the parameters of a network and its training.

    Raises
    ------
    ValueError
        Naming the parameter.
    """
    check_option("variant", estimator.variant, VARIANTS)
    if estimator.variant == "convcnp" and n_features != 1:
        raise ValueError(
            f"variant='convcnp' takes one feature, for it places points on a line; X "
            f"has {n_features}. Use another variant"
        )
    check_option("objective", estimator.objective, OBJECTIVES)
    if estimator.variant not in _LATENT and estimator.objective in OBJECTIVES[2:]:
        raise ValueError(
            f"objective={estimator.objective!r} needs a latent variable, which "
            f"variant={estimator.variant!r} has not; use 'likelihood', or one of "
            f"{list(_LATENT)}"
        )
    for name in ("hidden_size", "n_layers", "n_heads", "n_inducing", "batch_size"):
        check_integer(name, getattr(estimator, name))
    if estimator.latent_size is not None:
        check_integer("latent_size", estimator.latent_size)
    if estimator.hidden_size % estimator.n_heads:
        raise ValueError(
            f"n_heads={estimator.n_heads} must divide "
            f"hidden_size={estimator.hidden_size}"
        )
    check_real("learning_rate_init", estimator.learning_rate_init, 0, inclusive=False)
    check_real("alpha", estimator.alpha, 0)
    check_real("min_std", estimator.min_std, 0, inclusive=False)
    resolve_device(estimator.device)


def check_likelihood_parameters(estimator: Any) -> None:
    """Check how a regressor's or a learner's network describes an observation.

    Raises
    ------
    ValueError
        Naming the parameter.
    """
    check_option("likelihood", estimator.likelihood, CONTINUOUS)
    if estimator.variant == "kernel" and estimator.likelihood == "bins":
        raise ValueError(
            "variant='kernel' predicts Gaussians in closed form; its likelihood is "
            "'gaussian' or 'mixture', not 'bins'"
        )
    check_integer("n_components", estimator.n_components)
    check_integer("n_bins", estimator.n_bins, _FEWEST_BINS)


def likelihood_parameters(
    estimator: Any, values: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the arguments of the likelihood, given standardized targets to learn."""
    if estimator.likelihood == "bins":
        n_bins, min_std = int(estimator.n_bins), float(estimator.min_std)
        return {"edges": bin_edges(values, n_bins, min_std)}
    if estimator.likelihood == "mixture":
        of_kernels = estimator.variant == "kernel"
        n_components = len(_KERNELS) if of_kernels else int(estimator.n_components)
        return {"n_components": n_components}
    return {}


def network_parameters(estimator: Any, x_range: tuple[float, float]) -> dict[str, Any]:
    """Return the arguments of the variant's network.

    Parameters
    ----------
    estimator : estimator
        With the parameters as attributes.
    x_range : tuple of float
        Smallest and largest standardized input, which the grid of "convcnp" covers.
    """
    width: dict[str, Any] = {"width": int(estimator.hidden_size)}
    layers, heads = int(estimator.n_layers), int(estimator.n_heads)
    latent: dict[str, Any] = {}
    if estimator.latent_size is not None:
        latent = {"latent_size": int(estimator.latent_size)}
    by_variant: dict[str, dict[str, Any]] = {
        "cnp": {**width, "n_hidden": layers},
        "np": {**width, "n_hidden": layers, **latent},
        "anp": {**width, "n_hidden": 2, "n_heads": heads, **latent},
        "convcnp": {**width, "x_range": list(x_range)},
        "tnp": {**width, "n_layers": layers, "n_heads": heads},
        "lbanp": {
            **width,
            "n_layers": layers,
            "n_heads": heads,
            "n_inducing": int(estimator.n_inducing),
        },
        "kernel": {
            **width,
            "n_layers": layers,
            "kernels": list(_KERNELS),
            "min_std": float(estimator.min_std),
        },
    }
    return by_variant[estimator.variant]


def meta_training(
    estimator: Any,
    likelihood: str,
    n_steps: int,
    x_range: tuple[float, float],
    parameters: dict[str, Any] | None = None,
) -> MetaTraining:
    """Return the training that the parameters ask for; `parameters` of likelihood."""
    return MetaTraining(
        variant=estimator.variant,
        likelihood=likelihood,
        network_parameters=network_parameters(estimator, x_range),
        min_std=float(estimator.min_std),
        objective=estimator.objective,
        n_steps=n_steps,
        batch_size=int(estimator.batch_size),
        learning_rate=float(estimator.learning_rate_init),
        weight_decay=float(estimator.alpha),
        likelihood_parameters=parameters or {},
    )
