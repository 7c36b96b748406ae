"""What the estimators of neural processes document alike."""

NETWORK_PARAMETERS = """variant : {"cnp", "np", "anp", "convcnp", "tnp", "lbanp"}, \
default="tnp"
        The network: conditional, latent, attentive, convolutional (one feature),
        transformer, or a transformer with inducing tokens, whose cost is linear.
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
