"""Peers on images: residual networks and dropout; one scale for all pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from torch import nn
from torch.nn import functional

from mnist import N_BLOCKS, ResidualBlock
from skfunc import ODENetClassifier
from skfunc.nn import draw_module
from skfunc.nn._odenet import ImageHead, ImageStem
from skfunc.solvers import SolverReport

PREDICT_ROWS = 1000


def dropout_mlp(n_features: int, n_classes: int, dropout: float) -> nn.Module:
    """Return two hidden layers of 128, with dropout after each."""
    width = 128
    return nn.Sequential(
        nn.Linear(n_features, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, n_classes),
    )


class OneScale(TransformerMixin, BaseEstimator):
    """Centre and scale all columns by one number each."""

    def fit(self, X, y=None):
        self.center_, self.scale_ = X.mean(), X.std() or 1.0
        return self

    def transform(self, X):
        return (X - self.center_) / self.scale_


class ResidualNet(nn.Module):
    """The ODE-Net's stem and head around residual blocks, for images of any shape."""

    def __init__(
        self,
        n_outputs: int,
        channels: int,
        image_shape: tuple[int, int, int],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.stem = ImageStem(image_shape, channels, "relu")
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(N_BLOCKS))
        self.dropout = nn.Dropout(dropout)
        self.head = ImageHead(channels, n_outputs, "relu")

    def forward(self, x):
        h = self.stem(x.unflatten(-1, self.image_shape))
        for block in self.blocks:
            h = self.dropout(block(h))
        return self.head(h)


class _Reporting(ResidualNet):
    """With the report that the training loop of ODE-Nets expects."""

    def forward(self, x, solver):
        report = SolverReport(
            "residual", N_BLOCKS, N_BLOCKS, None, N_BLOCKS, 0, "success"
        )
        return super().forward(x), report


class ResNetClassifier(ODENetClassifier):
    """Residual networks in the training loop of the ODE-Nets."""

    def _build_module(self, n_features, n_outputs):
        return _Reporting(n_outputs, self.state_size, tuple(self.image_shape))


class MCDropoutClassifier(ClassifierMixin, BaseEstimator):
    """A network whose dropout stays on in predictions, averaged over passes.

    Rows are centred and scaled by one number each for all columns, as intensities are.

    Parameters
    ----------
    build : callable
        Called with the number of features, of classes and `dropout`; returns a module.
    dropout : float, default=0.1
        Probability that a unit is left out.
    n_passes : int, default=32
        Passes that a prediction averages.
    max_iter : int, default=100
        Epochs, over which the learning rate falls along half a cosine.
    batch_size : int, default=64
        Rows of a gradient step.
    learning_rate_init : float, default=2e-3
        First step of Adam.
    alpha : float, default=1e-4
        Decoupled weight decay.
    random_state : int, default=0
        Seed of the weights, the batches and all masks.
    device : str, default="cpu"
        Where to train and predict.

    References
    ----------
    Y. Gal, Z. Ghahramani. Dropout as a Bayesian Approximation: Representing Model
    Uncertainty in Deep Learning. 2016. arXiv:1506.02142
    """

    def __init__(
        self,
        build: Callable[[int, int, float], nn.Module] = dropout_mlp,
        dropout: float = 0.1,
        n_passes: int = 32,
        max_iter: int = 100,
        batch_size: int = 64,
        learning_rate_init: float = 2e-3,
        alpha: float = 1e-4,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.build = build
        self.dropout = dropout
        self.n_passes = n_passes
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.random_state = random_state
        self.device = device

    def fit(self, X, y):
        """Train the network."""
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.center_, self.scale_ = X.mean(), X.std() or 1.0
        rows, labels = self._inputs(X), torch.as_tensor(labels, device=self.device)
        n_steps = self.max_iter * -(-len(rows) // self.batch_size)
        # Dropout knows the global generator alone; it is put back afterwards.
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            network = self.build(X.shape[1], len(self.classes_), self.dropout)
            generator = torch.Generator().manual_seed(self.random_state)
            draw_module(network, generator)
            self.network_ = network.to(self.device).train()
            optimizer = torch.optim.AdamW(
                self.network_.parameters(),
                lr=self.learning_rate_init,
                weight_decay=self.alpha,
            )
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
            for _ in range(self.max_iter):
                order = torch.randperm(len(rows), generator=generator)
                for chosen in order.split(self.batch_size):
                    optimizer.zero_grad()
                    outputs = self.network_(rows[chosen])
                    functional.cross_entropy(outputs, labels[chosen]).backward()
                    optimizer.step()
                    schedule.step()
        return self

    def predict_proba(self, X):
        """Mean of the passes' probabilities, with the same masks at every call."""
        total = 0.0
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(self.random_state)
            for _ in range(self.n_passes):
                parts = [
                    self.network_(part).softmax(-1)
                    for part in self._inputs(X).split(PREDICT_ROWS)
                ]
                total = total + torch.cat(parts).double().cpu().numpy()
        return total / self.n_passes

    def _inputs(self, X):
        rows = (X - self.center_) / self.scale_
        return torch.as_tensor(rows, dtype=torch.float32, device=self.device)
