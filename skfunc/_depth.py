"""Estimators whose members are networks of continuous depth: field, solver, report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skfunc._members import MemberNetworkEstimator
from skfunc._validation import (
    check_image_shape,
    check_integer,
    check_option,
    check_sizes,
)
from skfunc.nn import ACTIVATIONS
from skfunc.solvers import SolverReport

# What the estimators document alike.
NETWORK_PARAMETERS = """hidden_layer_sizes : int or sequence of int, default=(64,)
        Widths of the hidden layers of the field f; of an MLP.
    state_size : int, default=64
        Width of the state h, or its number of channels for images.
    n_augment : int, default=0
        Zero dimensions (or channels) added to the state [2]_: trajectories that would
        have to cross in the state itself can pass each other there.
    field : {"auto", "mlp", "conv"} or callable, default="auto"
        The vector field. "conv" has two 3x3 convolutions with group normalization and
        needs `image_shape`; "auto" is "conv" for images, else "mlp". A callable, such
        as a class of yours, is called with the state's size (an int, or (channels,
        height, width) for images) and returns a `torch.nn.Module` whose forward(t, h)
        has h's shape.
    activation : {"elu", "gelu", "identity", "logistic", "relu", "silu", "softplus", \
"tanh"}, default="silu"
        Activation inside the field.
    image_shape : tuple of int, default=None
        (channels, height, width) of images that come as flattened rows. The pixels of a
        channel are then standardized together."""
TRAINING_PARAMETERS = """alpha : float, default=1.0
        L2 penalty: the precision of a Gaussian prior on the weights. As in
        `MLPRegressor` it is divided by the sample size; it acts as weight decay.
    batch_size : int or "auto", default="auto"
        Rows per step; "auto" is all of up to 64 rows, and n_samples / 16 between 32 and
        256 beyond.
    learning_rate_init : float, default=1e-2
        Peak learning rate of Adam; it warms up, then falls along half a cosine.
    max_iter : int or "auto", default="auto"
        Most epochs, over which the learning rate falls. "auto" is 200 for up to 3000
        rows, then 600 000 / n_samples, and at least 20.
    tol : float, default=1e-4
        Without a held-out part, an epoch that lowers the loss by less is no progress.
    n_iter_no_change : int, default=30
        Epochs without progress after which a member stops.
    early_stopping : bool or "auto", default="auto"
        Whether each member keeps a part of the rows out of its training, another one
        for each. It then keeps the weights of its best epoch there, and these rows
        calibrate the predictions. "auto": from 8 distinct rows on.
    validation_fraction : float, default=0.1
        The part that a member keeps out. Equal rows are kept out together.
    warm_start : bool, default=False
        Whether fit starts from the weights of the previous fit.
    verbose : bool, default=False
        Whether to print the losses of every epoch.
    random_state : int, RandomState or None, default=None
        Initial weights, held-out parts and batches.
    device : str, default="auto"
        Where to train: "auto" is CUDA where there is one. The fitted state is kept on
        the CPU."""
ATTRIBUTES = """parameters_ : ndarray of shape (n_members, n_parameters)
        Weights of the members, averaged over the last steps of training.
    n_iter_ : int
        Epochs run by the member that ran longest.
    best_iter_ : ndarray of shape (n_members,)
        The epoch whose weights each member kept.
    loss_curve_ : list of float
        Training loss of every epoch, averaged over the members.
    validation_scores_ : list of float or None
        Mean held-out log likelihood of every epoch, up to a constant.
    n_retries_ : ndarray of shape (n_members,)
        Restarts after a loss that was not finite.
    solver_report_ : dict
        The last solve: method, `nfe` (evaluations of the field per row), `nfe_max`,
        `n_steps`, `n_rejected`, and `status`, one of "success", "capped", "diverged".
    nfe_ : float
        Evaluations of the field per row in the last solve.
    X_mean_, X_scale_ : ndarray of shape (n_features,)
        Weighted moments that X is standardized by.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had any."""


class DepthEstimator(MemberNetworkEstimator):
    """Base of estimators whose state follows a field from depth 0 to 1."""

    def _check_network(self, n_features: int) -> None:
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        check_integer("state_size", self.state_size)
        check_integer("n_augment", self.n_augment, low=0)
        check_option("activation", self.activation, sorted(ACTIVATIONS))
        if not callable(self.field):
            check_option("field", self.field, ("auto", "mlp", "conv"))
        shape = check_image_shape(self.image_shape, n_features)
        if shape is None and self.field == "conv":
            raise ValueError(
                "field='conv' needs image_shape=(channels, height, width), whose "
                f"product is the width of X ({n_features})"
            )
        check_option("warm_start", self.warm_start, (True, False))

    def _network_settings(self, n_features: int) -> dict[str, Any]:
        """Return the arguments of `skfunc.nn.ODENet`."""
        field, shape = self.field, check_image_shape(self.image_shape, n_features)
        if isinstance(field, str) and field == "auto":
            field = "mlp" if shape is None else "conv"
        return {
            "state_size": self.state_size,
            "hidden_layer_sizes": check_sizes(
                "hidden_layer_sizes", self.hidden_layer_sizes
            ),
            "n_augment": self.n_augment,
            "field": field,
            "activation": self.activation,
            # An MLP takes the pixels as they come.
            "image_shape": None if field == "mlp" else shape,
        }

    def _numbers_per_row(self) -> int:
        width = self.state_size + self.n_augment
        widest = max(width, *check_sizes("hidden_layer_sizes", self.hidden_layer_sizes))
        if self.image_shape is not None and self.field != "mlp":
            widest = width * int(np.prod(self.image_shape[1:]))
        return 8 * widest

    def _record_reports(self, reports: list[tuple[int, Any]]) -> None:
        weights = [max(rows, 1) for rows, _ in reports]
        self._runtime.report = SolverReport.merge([r for _, r in reports], weights)

    @property
    def solver_report_(self) -> dict[str, Any]:
        """How the last solve went: method, evaluations, rejected steps, status."""
        if getattr(self, "_runtime", None) is None or self._runtime.report is None:
            return self._fit_report
        report = self._runtime.report.to_dict()
        report.pop("nfe_per_row")
        return report

    @property
    def nfe_(self) -> float:
        """Evaluations of the field per row in the last solve."""
        return self.solver_report_["nfe"]

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (*super()._fitted_attributes(), "_fit_report")

    def _check_fitted_state(self) -> None:
        super()._check_fitted_state()
        if not isinstance(self._fit_report, dict):
            raise ValueError("the solver's report is missing")

    def _finish_fit(
        self,
        outputs: NDArray[np.float64],
        targets: NDArray[Any],
        weights: NDArray[np.float64],
    ) -> None:
        super()._finish_fit(outputs, targets, weights)
        self._fit_report = self.solver_report_
        self._runtime.report = None
