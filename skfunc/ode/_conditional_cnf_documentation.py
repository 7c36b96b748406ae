"""What `ConditionalCNFRegressor` documents of its parameters and attributes."""

from skfunc._depth import ATTRIBUTES, TRAINING_PARAMETERS
from skfunc._docstrings import fill_docstrings

_PARAMETERS = f"""hidden_layer_sizes : int or sequence of int, default=(64,)
        Widths of the hidden layers of the network of means and deviations, an ODE-Net
        of one step.
    state_size : int, default=64
        Width of its state.
    activation : {{"elu", "gelu", "identity", "logistic", "relu", "silu", "softplus", \
"tanh"}}, default="silu"
        Its activation.
    flow : {{"auto"}} or bool, default="auto"
        Whether there is a flow. "auto" keeps one that helps on held-out rows beyond
        doubt, from 50 distinct rows on; it needs `early_stopping`.
    flow_hidden_size : int, default=16
        Hidden units of the flow's field.
    flow_activation : {{"gelu", "logistic", "silu", "softplus", "tanh"}}, default="tanh"
        Activation of the field.
    flow_learning_rate_init : float, default=3e-2
        Peak learning rate of the flow.
    n_steps : int, default=4
        Midpoint steps of a solve while the flow trains, and the least Runge-Kutta steps
        after that: fit doubles them while that moves log densities by .001 or more.
        Epochs are judged by Runge-Kutta steps too, twice as many.
    n_members : int, default=8
        Networks trained in one pass, each from its own seed and without its own part of
        the rows; their spread is the epistemic uncertainty.
    {TRAINING_PARAMETERS}"""
_PARAMETERS = _PARAMETERS.replace(
    "between 32 and\n        256 beyond.",
    "between 32 and\n        256 beyond; for the flow a quarter of the rows, "
    "within the same bounds.",
)
# A fixed grid has no report of its own for every solve.
_OWN = """has_flow_ : bool
        Whether a flow was kept.
    flow_parameters_ : ndarray of shape (n_members, n_flow_parameters) or None
        Weights of the members' flows.
    flow_gain_ : ndarray of shape (2,) or None
        What held-out rows gained in log density by the flow, and the standard error.
    flow_loss_curve_ : list of float or None
        Training loss of every epoch of the flow, averaged over the members.
    flow_validation_scores_ : list of float or None
        Held-out log likelihood of every epoch of the flow, up to a constant.
    n_steps_ : int
        Steps of a solve at predict time.
    solver_report_ : dict or None
        How the flow is solved: method, `n_steps`, `nfe` (evaluations of the field).
    seed_ : int
        Of the fixed draws.
    noise_scale_ : ndarray of shape (n_targets,)
        Factor on the predicted deviation, fitted to rows that members never saw; 1 with
        a flow.
    noise_range_ : ndarray of shape (2, n_members, n_targets)
        Smallest and largest deviation (raw outputs) of each member on the training
        rows; predictions stay within.
    y_mean_, y_scale_ : ndarray of shape (n_targets,)
        Weighted moments that y is standardized by.
    n_targets_ : int
        Columns of y."""
_BEFORE, _, _AFTER = ATTRIBUTES.partition("solver_report_ : dict")
_INPUTS = _AFTER[_AFTER.index("X_mean_") :]

document_conditional_cnf = fill_docstrings(
    parameters=_PARAMETERS, attributes=f"{_BEFORE}{_OWN}\n    {_INPUTS}"
)
