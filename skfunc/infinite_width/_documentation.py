"""What the estimators of infinite width document alike."""

from __future__ import annotations

from skfunc._docstrings import fill_docstrings

_PARAMETERS = """\
architecture : {"mlp", "conv", "wide_resnet"} or Layer or callable, default="mlp"
        The network: a preset of `skfunc.infinite_width.layers.preset`, a network built
        from `skfunc.infinite_width.layers`, or a ``kernel_fn`` of neural-tangents.
    kernel : {"nngp", "ntk"}, default="{kernel}"
        "nngp": the Gaussian process of the network, which is also the ensemble of
        networks whose last layer alone is trained. "ntk": the ensemble of networks
        whose layers are all trained by gradient descent.
    depth : int or "auto", default="auto"
        Hidden layers of a preset, or its blocks in a group.
    activation : str or "auto", default="auto"
        Activation of a preset: "relu", "leaky_relu", "abs", "erf", "gelu", "sin",
        "cos", "rbf", "sigmoid".
    weight_std, bias_std : float or "auto", default="auto"
        Standard deviations of the weights and biases of a preset.
    linear_std : float or "auto", default="auto"
        Standard deviation of the weights of a linear path from input to output beside
        a preset; 0 for none.
    relevance : {"auto", None}, default="auto"
        "auto" scales every column by a factor of its own, if rows left out are
        predicted better for it; None treats columns alike. Not for images and
        networks given as layers.
    alpha : float or "auto", default="auto"
        Ridge: the variance of the noise, in units of the mean of the kernel's diagonal.
    amplitude : float or "auto", default="auto"
        Factor on the kernel (and on the noise) for the standardized targets; "auto"
        maximizes the marginal likelihood. The mean does not depend on it.
    training_time : float, "auto" or None, default=None
        Time of training by gradient descent, in steps at `learning_rate`; None trains
        to the end, "auto" chooses by rows left out.
    learning_rate : float, default=1.0
        Rate of gradient descent, which only scales the time.
    selection : {"lml", "loo"} or None, default="{selection}"
        What decides on all that is "auto": the log marginal likelihood, or the
        density of rows left out (their squared error for "ntk"). None leaves it at
        fixed defaults.
    solver : {"auto", "cholesky", "eigh", "cg", "nystrom"}, default="auto"
        "cholesky" factors the kernel matrix; "eigh" decomposes it, which costs more and
        then serves every ridge and time; "cg" (preconditioned conjugate gradients) and
        "nystrom" (a kernel of low rank) go past memory, with variances from the
        nearest rows, and only train to the end. "auto" takes the cheapest that memory
        and training time allow.
    max_memory : int or "auto", default="auto"
        Bytes for kernel matrices and factors; "auto" is half of the machine's memory.
    image_shape : tuple of int (channels, height, width), default=None
        Shape of the images that the rows of X are.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of the kernel; "auto" is float64, and float32 past memory. Linear
        systems are solved in float64.
    device : str or torch.device, default="auto"
        Where kernels are computed; "auto" is CUDA where there is one.
    random_state : int, RandomState or None, default=None
        Chooses the rows that hyperparameters are compared on when there are more than
        some hundreds."""

_ATTRIBUTES = """\
activation_, depth_, weight_std_, bias_std_, linear_std_
        The chosen hyperparameters of a preset.
    relevance_ : ndarray of shape (n_features,)
        Factors on the standardized columns.
    alpha_ : float
        The chosen ridge, in units of the mean of the kernel's diagonal.
    ridge_ : float
        The same in units of the kernel, jitter included.
    amplitude_ : ndarray of shape (n_outputs,)
        Factors on the kernel.
    noise_variance_ : ndarray of shape (n_outputs,)
        Variance of the noise of standardized targets.
    training_time_ : float
        Training time, inf for training to the end.
    solver_ : str
        The solver that was used.
    alphas_ : ndarray of shape (n_distinct_rows, n_outputs)
        Coefficients; the mean is their product with a kernel block.
    X_train_, y_train_, sample_weight_ : ndarray
        Distinct training rows, standardized, and their weights.
    row_index_ : ndarray of shape (n_samples,)
        Position of every row of X among them, -1 for a row of weight zero.
    candidates_ : list of dict
        What was compared, by which criterion ("lml" or "loo") and with what score in
        nats a row; the last two tell with and without relevance.
    X_mean_, X_scale_ : ndarray of shape (n_features,)
        Weighted moments that X is standardized by; one for a channel of images."""

_REFERENCES = """\
.. [1] J. Lee, L. Xiao, S. S. Schoenholz, Y. Bahri, R. Novak, J. Sohl-Dickstein, J.
           Pennington, "Wide neural networks of any depth evolve as linear models
           under gradient descent", 2019, arXiv:1902.06720.
    .. [2] R. Novak, L. Xiao, J. Hron, J. Lee, A. A. Alemi, J. Sohl-Dickstein, S. S.
           Schoenholz, "Neural tangents: fast and easy infinite neural networks in
           Python", 2020, arXiv:1912.02803.
    .. [3] C. E. Rasmussen, C. K. I. Williams, "Gaussian processes for machine
           learning", 2006, chapter 5."""


def document_infinite_width(kernel: str, selection: str):
    """Return a decorator that documents parameters, whose defaults may differ.

    Parameters
    ----------
    kernel : str
        Default of `kernel`.
    selection : str
        Default of `selection`.

    Returns
    -------
    callable
        Decorator of classes.
    """
    parameters = _PARAMETERS.replace("{kernel}", kernel)
    return fill_docstrings(
        parameters=parameters.replace("{selection}", selection),
        attributes=_ATTRIBUTES,
        references=_REFERENCES,
    )
