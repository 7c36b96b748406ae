"""A trained neural process: a distribution over functions that can be conditioned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skfunc.neural_process._likelihoods import LIKELIHOODS, build_likelihood
from skfunc.nn import (
    NEURAL_PROCESSES,
    Likelihood,
    NeuralProcess,
)

Array = NDArray[np.float64]

_MOMENTS = ("x_mean", "x_scale", "y_mean", "y_scale")


class NeuralProcessPrior:
    """A distribution over functions that was learned from tasks.

    What `NeuralProcessMetaLearner` leaves as `prior_`, and what
    `NeuralProcessRegressor` and `NeuralProcessClassifier` take as `prior`: a parameter,
    not fitted state, so it is immutable and a clone of it is itself.

    Parameters
    ----------
    variant : str
        Name of the network: "cnp", "np", "anp", "convcnp", "tnp", "lbanp",
        "kernel".
    likelihood : {"gaussian", "mixture", "bins", "categorical"}
        What the network predicts.
    n_features, n_targets : int
        Columns of X; columns of y, or classes. Both 0 for a prior that takes any table:
        `for_table` makes it one of a table's size.
    network_parameters : dict
        Further arguments of the network.
    min_std : float
        Floor of a Gaussian's standard deviation, in standardized units of y.
    weights : dict of ndarray
        The network's parameters.
    moments : dict of ndarray
        "x_mean", "x_scale" of shape (n_features,) and "y_mean", "y_scale" of shape
        (n_targets,): what data are standardized by; empty for any table.
    training : dict, optional
        What is known of the training: steps, seconds, losses.
    likelihood_parameters : dict, optional
        Further arguments of the likelihood: "n_components" of a mixture, or the list
        "edges" of bins.

    See Also
    --------
    NeuralProcessMetaLearner : Learns one.

    Examples
    --------
    >>> import numpy as np
    >>> from skfunc.neural_process import NeuralProcessMetaLearner
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-2, 2, size=(20, 12, 1))
    >>> y = np.sin(X[..., 0] + rng.uniform(0, 6, size=(20, 1)))
    >>> learner = NeuralProcessMetaLearner(variant="cnp", max_iter=20, random_state=0)
    >>> learner.fit(list(zip(X, y))).prior_
    NeuralProcessPrior(variant='cnp', likelihood='gaussian', n_features=1, n_targets=1)
    """

    def __init__(
        self,
        *,
        variant: str,
        likelihood: str,
        n_features: int,
        n_targets: int,
        network_parameters: dict[str, Any],
        min_std: float,
        weights: dict[str, NDArray[np.floating]],
        moments: dict[str, Array],
        training: dict[str, Any] | None = None,
        likelihood_parameters: dict[str, Any] | None = None,
    ) -> None:
        if variant not in NEURAL_PROCESSES:
            raise ValueError(
                f"variant={variant!r} is unknown; choose one of "
                f"{sorted(NEURAL_PROCESSES)}"
            )
        if likelihood not in LIKELIHOODS:
            raise ValueError(
                f"likelihood={likelihood!r} is unknown; choose one of "
                f"{list(LIKELIHOODS)}"
            )
        self._content: dict[str, Any] = {
            "variant": variant,
            "likelihood": likelihood,
            "n_features": n_features,
            "n_targets": n_targets,
            "network_parameters": dict(network_parameters),
            "min_std": float(min_std),
            "weights": {name: _frozen(value) for name, value in weights.items()},
            "moments": {
                name: _frozen(moments[name]) for name in _MOMENTS if n_features
            },
            "training": dict(training or {}),
            "likelihood_parameters": dict(likelihood_parameters or {}),
        }
        self._module: NeuralProcess | None = None

    def __repr__(self) -> str:
        content = self._content
        return (
            f"NeuralProcessPrior(variant={content['variant']!r}, "
            f"likelihood={content['likelihood']!r}, "
            f"n_features={content['n_features']}, n_targets={content['n_targets']})"
        )

    def __sklearn_clone__(self) -> NeuralProcessPrior:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"_content": self._content, "_module": None}

    @property
    def variant(self) -> str:
        """Name of the network."""
        return self._content["variant"]

    @property
    def likelihood(self) -> str:
        """What the network predicts: "gaussian", "mixture", "bins" or "categorical"."""
        return self._content["likelihood"]

    @property
    def n_features(self) -> int:
        """Columns of X; 0 for any."""
        return self._content["n_features"]

    @property
    def n_targets(self) -> int:
        """Columns of y, or classes; 0 for any."""
        return self._content["n_targets"]

    @property
    def takes_any_table(self) -> bool:
        """Whether tables of any width are standardized by themselves."""
        return self.n_features == 0

    def for_table(
        self,
        n_features: int,
        n_targets: int,
        moments: dict[str, Array],
        **network_parameters: Any,
    ) -> NeuralProcessPrior:
        """Return the prior of a table of one size, with the same weights.

        Parameters
        ----------
        n_features, n_targets : int
            Columns of X; columns of y, or classes.
        moments : dict of ndarray
            What the table is standardized by.
        **network_parameters
            Arguments of the network that are to differ.

        Returns
        -------
        NeuralProcessPrior
            Of that size.
        """
        content = self.for_any_table(**network_parameters)._content
        return NeuralProcessPrior(
            **{
                **content,
                "n_features": n_features,
                "n_targets": n_targets,
                "moments": moments,
            }
        )

    def for_any_table(self, **network_parameters: Any) -> NeuralProcessPrior:
        """Return the same prior with other arguments of its network.

        Parameters
        ----------
        **network_parameters
            Arguments that are to differ, of no effect on the shapes of weights.

        Returns
        -------
        NeuralProcessPrior
            With the same weights.
        """
        content = self._content
        merged = {**content["network_parameters"], **network_parameters}
        likelihood = dict(content["likelihood_parameters"])
        if self.likelihood == "mixture" and "kernels" in merged:
            # A component for each kernel of each reading.
            n_readings = int(merged.get("n_readings", 1))
            likelihood["n_components"] = len(merged["kernels"]) * n_readings
        return NeuralProcessPrior(
            **{
                **content,
                "network_parameters": merged,
                "likelihood_parameters": likelihood,
            }
        )

    @property
    def training(self) -> dict[str, Any]:
        """What is known of the training."""
        return dict(self._content["training"])

    @property
    def n_parameters(self) -> int:
        """How many numbers the network has learned."""
        return sum(value.size for value in self._content["weights"].values())

    def moments(self, name: str) -> Array:
        """Return what the tasks were standardized by.

        Parameters
        ----------
        name : {"x_mean", "x_scale", "y_mean", "y_scale"}
            Which of the moments.

        Returns
        -------
        ndarray of shape (n_features,) or (n_targets,)
            Read-only.
        """
        return self._content["moments"][name]

    def likelihood_module(self) -> Likelihood:
        """Build what reads the network's raw outputs.

        Returns
        -------
        skfunc.nn.Likelihood
            In float64.
        """
        return build_likelihood(
            self.likelihood,
            self._content["min_std"],
            self._content["likelihood_parameters"],
        ).double()

    def network(self) -> NeuralProcess:
        """Build the network when first asked for.

        Returns
        -------
        skfunc.nn.NeuralProcess
            In float64, without gradients.

        Raises
        ------
        ValueError
            If the weights are not those of the network.
        """
        if self._module is None:
            module = build_network(
                self.variant,
                self.likelihood_module(),
                self.n_features or 1,
                self.n_targets or 2,
                self._content["network_parameters"],
            ).double()
            expected = {key: tuple(v.shape) for key, v in module.state_dict().items()}
            given = {key: v.shape for key, v in self._content["weights"].items()}
            if expected != given:
                unlike = sorted(set(expected.items()) ^ set(given.items()))[:2]
                raise ValueError(
                    f"the weights are not those of the network: {unlike} differ"
                )
            module.load_state_dict(
                {
                    key: torch.tensor(value, dtype=torch.float64)
                    for key, value in self._content["weights"].items()
                }
            )
            for parameter in module.parameters():
                parameter.requires_grad_(False)
            halves = (v.dtype == np.float16 for v in self._content["weights"].values())
            if all(halves) and hasattr(module, "inference"):
                # Weights of half precision need no more than single; what is
                # conditioned on the inferred hyper-parameters does.
                module.inference.float()
            self._module = module.eval()
        return self._module

    def save(self, path: str | Path) -> None:
        """Write the prior to one safetensors file, without pickle.

        Parameters
        ----------
        path : str or Path
            File to write; `skfunc.load` reads it, and `prior` takes its path.
        """
        from skfunc.persistence import save_value

        save_value(self, path)

    def _saved_state(self) -> dict[str, Any]:
        return self._content

    @classmethod
    def _from_saved_state(cls, state: dict[str, Any]) -> NeuralProcessPrior:
        prior = cls(**state)
        prior.network()
        return prior


def build_network(
    variant: str,
    likelihood: Likelihood,
    n_features: int,
    n_targets: int,
    parameters: dict[str, Any],
) -> NeuralProcess:
    """Return an untrained network."""
    return NEURAL_PROCESSES[variant](
        n_features, n_targets, likelihood.n_raw(n_targets), **parameters
    )


def _frozen(values: Any) -> NDArray[Any]:
    array = np.array(values)
    array.flags.writeable = False
    return array
