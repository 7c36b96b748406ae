"""What `LatentODE` documents of its parameters and attributes."""

from skfunc._docstrings import fill_docstrings

_PARAMETERS = """times : array-like of shape (n_times,), default=None
        Times of the columns of a 2-D X, not decreasing. None: an even grid on [0, 1].
    n_channels : int, default=1
        Channels of a 2-D X, whose column is (time index) * n_channels + channel. A
        ragged X says itself how many it has.
    window : tuple of 2 floats, default=None
        Start and end of the observation. The latent state starts at the start; a
        Poisson process is watched over the whole. None: the first and the last time.
    context_end : float, default=None
        Time up to which series are read. Later observations are predicted in training,
        but not read: so a forecaster is trained. None: all are read.
    poisson : bool, default=False
        Whether to model, besides the values, when each channel is observed.
    latent_size : int or "auto", default="auto"
        Width of the latent state. "auto" is twice the number of channels, between 8 and
        32.
    encoder : {"gru", "ode_rnn"}, default="gru"
        What reads a series, backwards: a gated recurrent unit with the time gaps among
        its inputs, or one whose state follows an ODE over the gaps [2]_, which costs
        several times as much.
    encoder_size : int, default=32
        Width of the encoder's state.
    hidden_layer_sizes : int or sequence of int, default=(64, 64)
        Hidden widths of the dynamics.
    decoder_layer_sizes : int or sequence of int, default=()
        Hidden widths of the decoder and of the event rates. () makes them affine, so
        that a path beyond the window is no farther from the data than its state.
    activation : str, default="silu"
        Activation of dynamics and decoder: "elu", "gelu", "identity", "logistic",
        "relu", "silu", "softplus" or "tanh".
    noise : {"ou", "white"}, default="ou"
        What is left of each channel around the path: an Ornstein-Uhlenbeck process,
        which lasts for a while, and white noise; or white noise alone. What lasts is
        interpolated between observations, and fades behind the last one.
    periods : array-like of shape (n_periods,), "auto" or None, default="auto"
        Periods of the rotations, in one pair of coordinates of the state each, that the
        dynamics start with. A path that goes around many times is not found from a
        start without them. "auto" takes the strong rhythms of the series that go around
        at least twice in the window, by their periodogram, then slow ones of two and
        four windows, for half of the state. None: no rotation. Not for events alone.
    n_steps : int or "auto", default="auto"
        Runge-Kutta steps of the state over the window; a forecast goes on with steps of
        the same length. Between steps it is interpolated by cubics. "auto" is half the
        observations of the longest series, between 5 and 20, or more where a period
        needs it: ten steps each.
    n_draws : int, default=32
        Draws of the latent state that predictions and scores average.
    observation_dropout : float, default=0.5
        Largest share of a series' observations that are hidden from the encoder in a
        step of training, while all are predicted. It keeps the encoder from learning
        the training series by heart.
    beta : float, default=1.0
        Weight of the divergence from the prior in training.
    alpha : float, default=0.0
        L2 penalty, divided by the number of series; it acts as weight decay.
    batch_size : int or "auto", default="auto"
        Series per step. "auto" is a tenth of all, between 32 and 128.
    learning_rate_init : float, default=2e-2
        Peak learning rate of Adam; it warms up, then falls along half a cosine.
    max_iter : int or "auto", default="auto"
        Epochs. "auto" makes as many steps as values were observed, between 100 and
        3000, in 30 epochs at least.
    n_iter_no_change : int, default=50
        Epochs without progress on the held-out series after which training ends.
    early_stopping : bool or "auto", default="auto"
        Whether to keep series out and keep the epoch that is best for them. "auto" does
        from 40 series on.
    validation_fraction : float, default=0.1
        Share of the series kept out.
    verbose : bool, default=False
        Whether to print the loss of every epoch.
    random_state : int, RandomState or None, default=None
        Initial weights, held-out series, batches and draws.
    device : str, default="auto"
        Where to train: "auto", "cpu", "cuda", "cuda:1"."""
_ATTRIBUTES = """times_ : ndarray of shape (n_times,)
        Times of the columns; 100 even ones in the window after a fit to ragged series.
    window_ : ndarray of shape (2,)
        Start and end of the observation.
    n_channels_ : int
        Channels of every series.
    channel_mean_, channel_scale_ : ndarray of shape (n_channels,)
        What values are standardized by.
    channel_observed_ : ndarray of bool of shape (n_channels,)
        Channels with any observation; nothing is predicted for others.
    event_rates_ : ndarray of shape (n_channels,) or None
        With `poisson`, the mean number of observations in a window's length.
    parameters_ : ndarray of shape (1, n_parameters)
        Weights of the network.
    n_iter_ : int
        Epochs run.
    best_iter_ : int
        The epoch whose weights were kept.
    loss_curve_ : list of float
        Negative lower bound per observed value, standardized, for every epoch; the
        divergence's weight rises over the first fifth.
    validation_scores_ : list of float or None
        The bound of the held-out series for every epoch.
    n_retries_ : int
        Restarts after a loss that was not finite.
    n_steps_ : int
        Steps of the solver in the window.
    periods_ : ndarray of shape (n_periods,) or None
        Periods of the rotations that the dynamics started with.
    noise_std_, noise_share_, noise_length_ : ndarray of shape (n_channels,)
        Deviation of the noise in units of X, the share of its variance that lasts, and
        the time after which what lasts has a correlation of 1/e.
    draw_seed_ : int
        Seed of the draws that all series share.
    n_features_in_ : int
        Columns of a 2-D X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X had any."""
_SERIES = """X : array-like of shape (n_series, n_times * n_channels), or Panel
            Series, NaN where nothing was observed; or a panel; or a list of pairs
            (times, values)."""

_EVENTS = """X : as in `fit`, or streams of events
            Series; after `LatentODE.fit_events`, a list with the times of each stream,
            or `EventStreams`."""

document_series = fill_docstrings(
    parameters=_PARAMETERS, attributes=_ATTRIBUTES, series=_SERIES, events=_EVENTS
)
