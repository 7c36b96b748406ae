"""What the estimators of neural processes document alike."""

NETWORK_PARAMETERS = """variant : {"cnp", "np", "anp", "convcnp", "tnp", "lbanp", \
"kernel"}, default="tnp"
        The network: conditional, latent, attentive, convolutional (one feature),
        transformer, transformer with inducing tokens, whose cost is linear, or one
        that infers kernels and conditions Gaussian processes in closed form.
    hidden_size : int, default=64
        Width of its layers.
    n_layers : int, default=4
        Hidden layers, or blocks of attention.
    n_heads : int, default=4
        Heads of attention; they divide `hidden_size`.
    latent_size : int, optional
        Width of the latent of "np" and "anp". Default: `hidden_size`.
    n_inducing : int, default=32
        Inducing tokens of "lbanp".
    min_std : float, default=1e-3
        Floor of the predicted standard deviation, in standardized units of y; it
        bounds the log density.
    objective : {"auto", "likelihood", "elbo", "importance_weighted"}, default="auto"
        What training maximizes: the likelihood of targets, and for variants with a
        latent the evidence lower bound (their "auto") or an importance-weighted
        likelihood."""

LIKELIHOOD_PARAMETERS = """likelihood : {"gaussian", "mixture", "bins"}, \
default="gaussian"
        What the network says of an observation: a Gaussian, a mixture of Gaussians, or
        the masses of bins between quantiles of y, with half-normal tails.
    n_components : int, default=5
        Gaussians of a mixture; "kernel" has one for each of its kernels.
    n_bins : int, default=50
        Most bins. There are fewer if y has less than ten values for each, and where
        quantiles lie close to each other.
    """

TRAINING_PARAMETERS = """batch_size : int, default=16
        Tasks in a step.
    learning_rate_init : float, default=1e-3
        Peak learning rate.
    alpha : float, default=0.0
        Weight decay.
    verbose : bool, default=False
        Whether to print the loss of every hundredth step.
    random_state : int, RandomState or None, default=None
        Initial weights and all that is drawn in training.
    device : str or torch.device, default="auto"
        Where to train; "auto" is CUDA where there is one."""

LEARNER_PARAMETERS = NETWORK_PARAMETERS.replace(
    "hidden_size :", LIKELIHOOD_PARAMETERS + "hidden_size :"
)

IMAGE_PARAMETERS = (
    NETWORK_PARAMETERS.replace('default="tnp"', 'default="convcnp"')
    .replace(
        "convolutional (one feature)",
        "convolutional, a\n        U-Net",
    )
    .replace("hidden_size : int, default=64", "hidden_size : int, default=32")
    .replace(
        "Width of its layers.",
        'Width of its layers; half of it at the finest resolution of "convcnp",\n'
        "        doubled at every halving.",
    )
    .replace(
        "Hidden layers, or blocks of attention.",
        "Hidden layers, blocks of attention, or resolutions at most.",
    )
    .replace("default=1e-3\n        Floor", "default=1e-2\n        Floor")
    .replace("in standardized units of y", "for values in [-.5, .5]")
)

ESTIMATOR_PARAMETERS = (
    """prior : "tabular", "self", NeuralProcessPrior or path, default="tabular"
        What is known of functions before the data: the prior over functions of tables
        that the package ships; or one that is learned from the data set itself; or the
        `prior_` of a `NeuralProcessMetaLearner`, or the file of a saved one. With all
        but "self" the parameters of network and training are idle.
    """
    + NETWORK_PARAMETERS.replace(
        "n_layers : int, default=4", "n_layers : int, default=3"
    )
    .replace('default="tnp"', 'default="cnp"')
    .replace("hidden_size : int, default=64", "hidden_size : int, default=128")
    .replace("default=1e-3\n        Floor", "default=1e-2\n        Floor")
    + """
    max_iter : int or "auto", default="auto"
        Steps of training at most; "auto" is eight times the number of rows, from 60
        to 800. Rows kept out, a fifth, choose the best.
    """
    + TRAINING_PARAMETERS.replace("default=16", "default=8")
    .replace("default=1e-3", "default=3e-3")
    .replace(
        "verbose :",
        """n_draws : int, default=16
        Draws of the latent that a prediction is made of.
    n_estimators : int, default=1
        With ``prior="tabular"``, how often the network reads the rows, each time other
        ones; what it infers competes. The time of a fit grows with it.
    finetune_steps : int, default=0
        With ``prior="tabular"``, steps of gradient ascent of the data's evidence, from
        the hyper-parameters that the network has inferred.
    verbose :""",
    )
)

REGRESSOR_PARAMETERS = ESTIMATOR_PARAMETERS.replace(
    "hidden_size :", LIKELIHOOD_PARAMETERS + "hidden_size :"
)

ESTIMATOR_ATTRIBUTES = """prior_ : NeuralProcessPrior
        The prior.
    X_context_ : ndarray of shape (n_samples, n_features)
        The rows that predictions are conditioned on, standardized.
    y_context_ : ndarray of shape (n_samples, n_targets)
        Their targets, standardized; indicators of classes.
    std_scale_ : ndarray of shape (n_targets,)
        Factor on standard deviations, from rows kept out with ``prior="self"``.
    categories_ : list
        With ``prior="tabular"`` and a DataFrame with categories: for each column None,
        or a dict of its "levels" and whether there is a "rest" of other levels.
    columns_, missing_columns_ : ndarray of int
        With ``prior="tabular"``, columns of X that the network reads, and columns whose
        gaps it is told of besides; the columns of `X_context_` in this order. Where
        there are categories, their indicators follow the columns of numbers.
    normals_ : ndarray of shape (n_draws, latent_size)
        Draws of the latent, the same for all rows.
    loss_curve_ : list of float
        Minus the objective of every step; with ``prior="self"`` alone.
    n_iter_ : int
        Steps of training taken; 1 where the prior is given."""
