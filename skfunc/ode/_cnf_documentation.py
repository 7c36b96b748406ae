"""What `CNFDensity` documents of its parameters and attributes."""

from skfunc._docstrings import fill_docstrings

_PARAMETERS = """base : {"auto", "normal", "mixture", "kernel"}, default="auto"
        What the flow starts from. "mixture" is a Gaussian mixture by the Bayesian
        information criterion, "kernel" a kernel density estimate with the bandwidth of
        the best leave-one-out likelihood; each beside a wide background for rare rows.
        "auto" stacks mixtures of many sizes and kernel densities, with shares by the
        likelihood of rows they did not see, and compares that with a flow from a
        normal.
    method : {"auto", "mle", "flow_matching", "hybrid"}, default="auto"
        How the flow is trained: by maximum likelihood with an exact trace; by flow
        matching [3]_, which is quicker and less exact; or by the one after the other.
        "auto" is "hybrid" from a normal, else "mle" from the identity.
    preprocessing : {"standardize", "whiten", "quantile"}, default="standardize"
        What is done to the columns first; its volume change is part of the density.
        "quantile" maps each column to a normal one by a smooth increasing function
        through its quantiles, straight beyond the outer ones: for skewed columns.
    hidden_layer_sizes : sequence of 2 ints, default=(64, 64)
        Widths of the field's two hidden layers.
    activation : {"gelu", "logistic", "silu", "softplus", "tanh"}, default="silu"
        Activation of the field.
    field : "mlp" or callable, default="mlp"
        The vector field. A callable is called with the rows' width and returns a
        `torch.nn.Module` whose forward(t, x) has x's shape, each row by itself. While
        it trains, its trace is estimated by a random probe beyond 10 columns; scores
        are exact always.
    max_components : int, default=30
        Most Gaussians of a mixture; those that "auto" stacks may have twice as many if
        their covariances are diagonal.
    solver : str, default="rk4"
        "euler", "midpoint", "heun" or "rk4" on a fixed grid; "dopri5" or "tsit5" with
        adaptive steps; or "torchdiffeq:METHOD".
    n_steps : int, default=8
        Least steps of a fixed-grid solver; training takes fewer. Fit doubles
        them until log densities move by less than .001 in the mean.
    rtol, atol : float, default=1e-5, 1e-5
        Tolerances of an adaptive solver.
    kinetic_penalty : float, default=0.0
        Weight of the squared speed along a row's path in maximum likelihood [4]_.
    jacobian_penalty : float, default=0.0
        Weight of the squared Frobenius norm of the field's Jacobian, over the columns,
        along a row's path in maximum likelihood [4]_; estimated by a random probe.
    alpha : float, default=1.0
        L2 penalty, divided by the number of rows; it acts as weight decay.
    batch_size : int, default=256
        Rows per step.
    learning_rate_init : float, default=5e-3
        Peak learning rate of Adam; it warms up, then falls along half a cosine.
    max_iter : int or "auto", default="auto"
        Most steps of maximum likelihood; flow matching takes five times as many, at
        less than a tenth of the cost each. "auto" is half the number of rows between
        150 and 600, and a thirtieth of it from 18 000 rows on, at most 2000.
    n_iter_no_change : int, default=25
        Judgements on the held-out rows without progress after which a training ends.
    validation_fraction : float, default=0.15
        Rows kept out, to choose epoch, base and flow; from 50 rows on. Up to 5000 rows
        the chosen ones are then fitted again to all rows.
    dequantize : bool, default=True
        Whether values of rounded columns are spread evenly over the gap around each.
        See the notes.
    verbose : bool, default=False
        Whether to print the losses of every epoch.
    random_state : int, RandomState or None, default=None
        Initial weights, held-out rows, batches and noise.
    device : str, default="auto"
        Where to train: "auto" is CUDA where there is one. The fitted state is kept on
        the CPU."""
_ATTRIBUTES = """has_flow_ : bool
        Whether rows are carried at all: False where the base alone was better.
    candidates_ : dict of str to float
        Mean log likelihood of the held-out rows under each candidate, in units of the
        preprocessed columns. A flow from a normal that falls too far behind the
        stacked base ends early; its figure is the one it had then.
    base_parts_ : list of dict
        Parts of the base, each a mixture of Gaussians: `kind`, `means`, `weights`, and
        Cholesky factors `cholesky` of the covariances.
    base_shares_ : ndarray of shape (n_parts,)
        Shares of the parts.
    parameters_ : ndarray of shape (1, n_parameters)
        Weights of the field.
    n_steps_ : int
        Steps of a fixed grid that scores take.
    columns_ : ndarray of bool of shape (n_features,)
        Columns with a density of their own; the others follow from them.
    column_gaps_ : ndarray of shape (n_features,)
        What the values of a rounded column were spread over; 0 for others.
    X_mean_, X_scale_ : ndarray of shape (n_features,)
        Moments of the columns.
    forward_, backward_ : ndarray of shape (n_features_out, n_features_out)
        Matrices to and from the preprocessed columns.
    relation_ : ndarray of shape (n_features_out, n_features - n_features_out)
        How the other columns, standardized, follow from those that were kept.
    tolerance_ : float
        Deviation from that relation that is rounding.
    quantile_knots_ : ndarray of shape (3, n_features_out, n_knots)
        Quantiles of the preprocessed columns, the normal's, and the slopes there; no
        knots without "quantile".
    n_iter_ : int
        Epochs of the kept flow, at least 1.
    loss_curve_ : list of float
        Its training losses, one per epoch.
    validation_scores_ : list of float or None
        Its mean held-out log likelihood, one per epoch.
    n_retries_ : int
        Restarts after a loss that was not finite.
    solver_report_ : dict or None
        The solve of the training rows: method, evaluations, steps, status.
    n_features_in_ : int
        Columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had any."""
_REFERENCES = """.. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural
           ordinary differential equations", 2018, arXiv:1806.07366.
    .. [2] W. Grathwohl, R. T. Q. Chen, J. Bettencourt, I. Sutskever, D. Duvenaud,
           "FFJORD: Free-form continuous dynamics for scalable reversible generative
           models", 2019, arXiv:1810.01367.
    .. [3] Y. Lipman, R. T. Q. Chen, H. Ben-Hamu, M. Nickel, M. Le, "Flow matching for
           generative modeling", 2023, arXiv:2210.02747.
    .. [4] C. Finlay, J.-H. Jacobsen, L. Nurbekyan, A. M. Oberman, "How to train your
           neural ODE: the world of Jacobian and kinetic regularization", 2020,
           arXiv:2002.02798."""

document_density = fill_docstrings(
    parameters=_PARAMETERS, attributes=_ATTRIBUTES, references=_REFERENCES
)
