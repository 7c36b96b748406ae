"""The neural process that completes images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.callback import with_callbacks
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from skfunc._docstrings import fill_docstrings
from skfunc._validation import (
    check_image_shape,
    check_integer,
    check_real,
    check_shape,
)
from skfunc.base import FunctionEstimator
from skfunc.neural_process._documentation import IMAGE_PARAMETERS, TRAINING_PARAMETERS
from skfunc.neural_process._functions import seeded
from skfunc.neural_process._images import (
    ImageTasks,
    as_points,
    as_rows,
    choose_exemplars,
    coordinates,
    grid_network,
    is_signal,
    seen_pixels,
)
from skfunc.neural_process._parameters import check_training_parameters, meta_training
from skfunc.neural_process._prior import NeuralProcessPrior
from skfunc.neural_process._refit import whole_or_unchanged
from skfunc.nn import GaussianLikelihood
from skfunc.training import resolve_device, thread_limits

Array = NDArray[np.float64]

# Numbers that the largest array of a chunk of images holds.
_CHUNK_NUMBERS = 2**22


@fill_docstrings(
    network=IMAGE_PARAMETERS,
    training=TRAINING_PARAMETERS.replace("default=1e-3", "default=3e-3"),
)
class ImageCompleter(OneToOneFeatureMixin, TransformerMixin, FunctionEstimator):
    """Transformer that fills in the missing pixels of images.

    An image is a function from a pixel's place to its values. A neural process learns
    from whole images what such functions look like, by predicting random pixels from
    others, and completes images of which some pixels were seen [1]_.

    Parameters
    ----------
    image_shape : tuple of int, default=None
        (channels, height, width), in the order of which the rows of X are flattened
        images. None takes a row for one line of pixels.
    {network}
    n_exemplars : int, default=1500
        Images of X that "convcnp" keeps, and from which it takes a first guess of
        missing pixels: those that agree with what was seen. 0 for none. They are part
        of a saved completer.
    context_share : tuple of (float, float), default=(0.0, 0.9)
        Least and greatest share of an image's pixels that are context in training.
    target_size : int, default=1024
        Most pixels to predict of an image in training.
    max_iter : int, default=1000
        Steps of training.
    n_draws : int, default=16
        Draws of the latent that a completion is averaged over.
    {training}

    Attributes
    ----------
    prior_ : NeuralProcessPrior
        What was learned. Values are scaled to [-.5, .5] inside.
    image_shape_ : tuple of int
        (channels, height, width).
    normals_ : ndarray of shape (n_draws, latent_size)
        Draws of the latent, the same for all images.
    loss_curve_ : list of float
        Minus the objective of every step, in nats a pixel, for scaled values.
    n_iter_ : int
        Steps taken.

    Raises
    ------
    FloatingPointError
        By fit, if the loss stays non-finite through three restarts.

    See Also
    --------
    NeuralProcessMetaLearner : Learns from tasks of any kind.

    Notes
    -----
    Coordinates are in [-1, 1]. A pixel is context if all its channels were seen. The
    share of context is drawn with a density that falls as the root of the share, since
    small contexts leave most to learn.

    "convcnp" corrects two guesses that need no training, the interpolation of seen
    pixels and the mean of the exemplars that agree with them, by a U-Net; on a single
    line of pixels it is the convolutional network of `NeuralProcessRegressor`.

    Given m pixels to fill, `sample` of a variant without latent encodes the image once
    for every group of pixels: those of a group are drawn independently given all
    groups before, which approximates drawing one by one [2]_.

    References
    ----------
    .. [1] M. Garnelo, D. Rosenbaum, C. J. Maddison, T. Ramalho, D. Saxton,
           M. Shanahan, Y. W. Teh, D. J. Rezende, S. M. A. Eslami, "Conditional neural
           processes", 2018, arXiv:1807.01613.
    .. [2] W. P. Bruinsma, S. Markou, J. Requeima, A. Y. K. Foong, T. R. Andersson,
           A. Vaughan, A. Buonomo, J. S. Hosking, R. E. Turner, "Autoregressive
           conditional neural processes", 2023, arXiv:2303.14468.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skfunc.neural_process import ImageCompleter
    >>> X = load_digits().data
    >>> completer = ImageCompleter(image_shape=(1, 8, 8), max_iter=50, random_state=0)
    >>> _ = completer.fit(X[:1000])
    >>> masked = np.where(np.arange(64) < 32, X[1000:], np.nan)
    >>> filled, std = completer.transform(masked, return_std=True)
    >>> bool(np.isfinite(filled).all()), bool((std[:, :32] == 0).all())
    (True, True)
    """

    def __init__(
        self,
        *,
        image_shape: Sequence[int] | None = None,
        variant: str = "convcnp",
        hidden_size: int = 32,
        n_layers: int = 4,
        n_heads: int = 4,
        latent_size: int | None = None,
        n_inducing: int = 32,
        min_std: float = 1e-2,
        objective: str = "auto",
        n_exemplars: int = 1500,
        context_share: tuple[float, float] = (0.0, 0.9),
        target_size: int = 1024,
        max_iter: int = 1000,
        n_draws: int = 16,
        batch_size: int = 16,
        learning_rate_init: float = 3e-3,
        alpha: float = 0.0,
        verbose: bool = False,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.image_shape = image_shape
        self.variant = variant
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.latent_size = latent_size
        self.n_inducing = n_inducing
        self.min_std = min_std
        self.objective = objective
        self.n_exemplars = n_exemplars
        self.context_share = context_share
        self.target_size = target_size
        self.max_iter = max_iter
        self.n_draws = n_draws
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.verbose = verbose
        self.random_state = random_state
        self.device = device

    def _check_parameters(self, n_features: int) -> tuple[int, int, int]:
        """Check the parameters; return the shape of an image."""
        shape = check_image_shape(self.image_shape, n_features) or (1, 1, n_features)
        # The convolution has a form for lines and one for images.
        check_training_parameters(self, n_features=1)
        for name in ("target_size", "max_iter", "n_draws"):
            check_integer(name, getattr(self, name))
        check_integer("n_exemplars", self.n_exemplars, 0)
        share: Any = self.context_share
        if not isinstance(share, (Sequence, np.ndarray)) or len(share) != 2:
            raise ValueError(f"context_share must be (least, greatest); got {share!r}")
        for value in share:
            check_real("context_share", value, 0)
        if not share[0] <= share[1] <= 1:
            raise ValueError(
                f"context_share must be (least, greatest) in [0, 1]; got {share!r}"
            )
        return shape

    @with_callbacks
    def fit(self, X: ArrayLike, y: Any = None) -> ImageCompleter:
        """Learn from images.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Flattened images. NaN stands for a pixel that was not seen, and has no part
            in the training.
        y : None
            Not used.

        Returns
        -------
        self : ImageCompleter
            The fitted transformer.
        """
        with whole_or_unchanged(self):
            rows = validate_data(
                self, X, dtype=np.float64, ensure_all_finite="allow-nan"
            )
            shape = self._check_parameters(rows.shape[1])
            points = as_points(rows, shape)
            # One pixel alone is nothing to predict another from, but where it is all.
            enough = seen_pixels(points).sum(axis=1) >= min(2, points.shape[1])
            if not enough.any():
                raise ValueError(
                    f"no image of X has two pixels that were seen; X has {len(rows)} "
                    f"images of shape {shape}"
                )
            context = self._init_callback_context()
            context.call_on_fit_task_begin(estimator=self, X=X, y=y)
            self._train(points[enough], shape)
            context.call_on_fit_task_end(
                estimator=self, X=X, y=y, reconstruction_attributes=dict
            )
        return self

    def _train(self, points: Array, shape: tuple[int, int, int]) -> None:
        """Learn; `prior_` comes last."""
        low, high = float(np.nanmin(points)), float(np.nanmax(points))
        middle, spread = 0.5 * (low + high), high - low or 1.0
        places = coordinates(shape)
        scaled = (points - middle) / spread
        source = ImageTasks(
            scaled,
            places,
            (float(self.context_share[0]), float(self.context_share[1])),
            int(self.target_size),
            is_padded=self.variant == "convcnp",
        )
        training = meta_training(self, "gaussian", int(self.max_iter), (-1.0, 1.0))
        random_state = check_random_state(self.random_state)
        seed = int(random_state.randint(2**31 - 1))
        exemplars = choose_exemplars(scaled, int(self.n_exemplars), random_state)
        if self.variant == "convcnp":
            variant, network = grid_network(
                shape, int(self.hidden_size), int(self.n_layers), len(exemplars)
            )
            training = replace(training, variant=variant, network_parameters=network)
            if self.objective == "auto" and not is_signal(shape):
                training = replace(training, objective="separate")

        def prepare(network: Any) -> None:
            if getattr(network, "exemplars", None) is not None:
                network.exemplars.store(torch.as_tensor(exemplars.swapaxes(1, 2)))

        size = int(self.latent_size or self.hidden_size)
        normals = np.random.RandomState(seed).standard_normal((self.n_draws, size))
        self.image_shape_, self.normals_ = shape, normals
        channels, n_features = points.shape[2], places.shape[1]
        try:
            with thread_limits(small=points.shape[1] <= 256):
                prior = training.run(
                    source.draw,
                    n_features=n_features,
                    n_targets=channels,
                    moments={
                        "x_mean": np.zeros(n_features),
                        "x_scale": np.ones(n_features),
                        "y_mean": np.full(channels, middle),
                        "y_scale": np.full(channels, spread),
                    },
                    seed=seed,
                    device=resolve_device(self.device),
                    on_step=self._report if self.verbose else None,
                    prepare=prepare,
                )
        except KeyboardInterrupt as interrupt:
            # Ctrl-C: fitted with what was learned, and raised again.
            if hasattr(interrupt, "prior"):
                self.prior_ = interrupt.prior
            raise
        finally:
            self.loss_curve_ = training.losses
            self.n_iter_ = len(training.losses)
        self.prior_ = prior

    def _report(self, step: int, loss: float) -> bool:
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.4f}")
        return False

    def transform(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Fill what is NaN with its predicted mean.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Flattened images, NaN where nothing was seen.
        return_std : bool, default=False
            Also return the standard deviation of what was filled in.

        Returns
        -------
        filled : ndarray of shape (n_images, n_features)
            The images; what was seen is as it was.
        std : ndarray of shape (n_images, n_features)
            Only with `return_std`, zero where a value was seen.
        """
        rows = self._check_images(X)
        filled, std = rows.copy(), np.zeros_like(rows)
        for chunk in self._chunks(rows):
            missing = np.isnan(rows[chunk])
            if not missing.any():
                continue
            with torch.no_grad(), thread_limits(small=rows.shape[1] <= 256):
                mean, variance = self._moments(*self._context(rows[chunk]))
            filled[chunk][missing] = as_rows(mean)[missing]
            std[chunk][missing] = np.sqrt(as_rows(variance)[missing])
        return (filled, std) if return_std else filled

    def sample(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = None,
        n_groups: int = 64,
    ) -> Array:
        """Draw completions.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Flattened images, NaN where nothing was seen.
        n_samples : int, default=1
            How many completions of each image.
        random_state : int, RandomState or None, default=None
            Which draws.
        n_groups : int, default=64
            Groups in which the pixels are drawn, in random order, if the variant has
            no latent: the first ones alone, later ones many at once. As many groups as
            pixels is one by one.

        Returns
        -------
        ndarray of shape (n_images, n_features, n_samples)
            Completed images; what was seen is as it was.
        """
        rows = self._check_images(X)
        check_integer("n_samples", n_samples)
        check_integer("n_groups", n_groups)
        generator = seeded(check_random_state(random_state))
        draws = np.repeat(rows[..., None], n_samples, axis=2)
        with torch.no_grad(), thread_limits(small=rows.shape[1] <= 256):
            for image, row in zip(draws, rows, strict=True):
                missing = np.isnan(row)
                if missing.any():
                    context = self._context(row[None])
                    points = self._draw(context, n_samples, n_groups, generator)
                    image[missing] = as_rows(points).T[missing]
        return draws

    def _check_images(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        return validate_data(
            self, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan"
        )

    def _chunks(self, rows: Array) -> Iterator[slice]:
        # Attention holds a number for two pixels, layers one for a pixel and a channel.
        n_pixels = rows.shape[1] // self.image_shape_[0]
        draws = self.n_draws if self.prior_.network().is_latent else 1
        widest = max(self.hidden_size * draws, n_pixels) * n_pixels
        step = max(1, _CHUNK_NUMBERS // widest)
        for start in range(0, len(rows), step):
            yield slice(start, start + step)

    def _context(self, rows: Array) -> tuple[Tensor, Tensor, Tensor]:
        """Return places, scaled values and the mask of all pixels of some images."""
        points = as_points(rows, self.image_shape_)
        scaled = (points - self.prior_.moments("y_mean")) / self.prior_.moments(
            "y_scale"
        )
        x = np.repeat(coordinates(self.image_shape_)[None], len(rows), axis=0)
        there = seen_pixels(points)
        values = np.where(there[..., None], scaled, 0.0)
        return torch.as_tensor(x), torch.as_tensor(values), torch.as_tensor(there)

    def _likelihood(self) -> GaussianLikelihood:
        likelihood = self.prior_.likelihood_module()
        assert isinstance(likelihood, GaussianLikelihood)
        return likelihood

    def _moments(self, x: Tensor, y: Tensor, there: Tensor) -> tuple[Array, Array]:
        """Return mean and variance of all pixels, (n_images, n_pixels, channels)."""
        network, z = self.prior_.network(), None
        state = network.encode(x, y, there)
        if network.is_latent:
            latent = network.posterior(state)
            z = latent.mean + latent.std * torch.as_tensor(self.normals_)[:, None]
        mean, std = self._likelihood().parameters_of(network.decode(state, x, z=z))
        variance = std.square()
        if network.is_latent:
            variance = variance.mean(0) + mean.var(0, correction=0)
            mean = mean.mean(0)
        spread = np.square(self.prior_.moments("y_scale"))
        return self._unscaled(mean), variance.numpy() * spread

    def _unscaled(self, values: Tensor) -> Array:
        prior = self.prior_
        return prior.moments("y_mean") + prior.moments("y_scale") * values.numpy()

    def _draw(
        self,
        context: tuple[Tensor, Tensor, Tensor],
        n_samples: int,
        n_groups: int,
        generator: torch.Generator,
    ) -> Array:
        """Return completions of one image, (n_samples, n_pixels, channels)."""
        network, likelihood = self.prior_.network(), self._likelihood()
        if network.is_latent:
            state = network.encode(*context)
            z = network.posterior(state).rsample(n_samples, generator)
            raw = network.decode(state, context[0], z=z)[:, 0]
            return self._unscaled(likelihood.sample(raw, generator))
        x, y, there = (part.repeat_interleave(n_samples, dim=0) for part in context)
        missing = (~there[0]).nonzero().squeeze(1)
        keys = torch.rand(n_samples, len(missing), generator=generator)
        order = missing[keys.argsort(dim=1)]
        rows = torch.arange(n_samples).unsqueeze(1)
        edges = _edges(len(missing), n_groups)
        for start, stop in zip(edges[:-1], edges[1:], strict=True):
            pixels = order[:, start:stop]
            raw = network.decode(network.encode(x, y, there), x[rows, pixels])
            y[rows, pixels] = likelihood.sample(raw, generator)
            there[rows, pixels] = True
        return self._unscaled(y)

    def __sklearn_tags__(self) -> Tags:
        """Return scikit-learn's tags: pixels may be NaN."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    @classmethod
    def _fitted_attributes(cls) -> tuple[str, ...]:
        return (
            "n_features_in_",
            "feature_names_in_",
            "prior_",
            "image_shape_",
            "normals_",
            "loss_curve_",
            "n_iter_",
        )

    def _check_fitted_state(self) -> None:
        shape = self._check_parameters(
            check_integer("n_features_in_", self.n_features_in_)
        )
        if not isinstance(self.prior_, NeuralProcessPrior):
            raise ValueError("prior_ is no NeuralProcessPrior")
        if tuple(self.image_shape_) != shape:
            raise ValueError(f"image_shape_ is {self.image_shape_}; expected {shape}")
        expected = (coordinates(shape).shape[1], shape[0])
        if (self.prior_.n_features, self.prior_.n_targets) != expected:
            raise ValueError(f"prior_ is not one of images of shape {shape}")
        size = int(self.latent_size or self.hidden_size)
        check_shape("normals_", self.normals_, (self.n_draws, size))


def _edges(n_pixels: int, n_groups: int) -> NDArray[np.intp]:
    """Return where groups of pixels begin and end, the first groups the smallest."""
    if n_groups >= n_pixels:
        return np.arange(n_pixels + 1)
    # What is drawn first decides most: group sizes grow as their number.
    share = np.linspace(0.0, 1.0, n_groups + 1) ** 2
    return np.unique(np.round(n_pixels * share).astype(np.intp))
