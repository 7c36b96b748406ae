"""A deep ensemble: mean-and-variance networks trained side by side."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, RegressorMixin

MIN_VARIANCE = 1e-6


class DeepEnsembleRegressor(RegressorMixin, BaseEstimator):
    """Ensemble of mean-and-variance networks, each from its own initialization.

    Parameters
    ----------
    n_members : int, default=5
        Number of networks.
    hidden_layer_sizes : tuple of int, default=(50,)
        Width of the hidden layers.
    max_iter : int, default=40
        Epochs; the most, with `early_stopping`.
    batch_size : int, default=100
        Rows of a gradient step.
    learning_rate_init : float, default=0.01
        Step of Adam.
    alpha : float, default=0.0
        Decoupled weight decay.
    early_stopping : bool, default=False
        Whether each member holds out rows of its own and keeps its best weights.
    validation_fraction : float, default=0.1
        Share of rows held out with `early_stopping`.
    n_iter_no_change : int, default=30
        Epochs without improvement of any member after which training ends.
    random_state : int, default=0
        Seed.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel, C. Blundell. Simple and Scalable Predictive
    Uncertainty Estimation using Deep Ensembles. 2017. arXiv:1612.01474
    """

    def __init__(
        self,
        n_members=5,
        hidden_layer_sizes=(50,),
        max_iter=40,
        batch_size=100,
        learning_rate_init=0.01,
        alpha=0.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=30,
        random_state=0,
    ):
        self.n_members = n_members
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state

    def fit(self, X, y):
        """Train all members in one pass."""
        rng = torch.Generator().manual_seed(self.random_state)
        self._center, self._scale = X.mean(0), X.std(0)
        self._scale = np.where(self._scale > 0, self._scale, 1.0)
        X, y = self._inputs(X), torch.as_tensor(y, dtype=torch.float32)
        self._layers = self._initial_layers(X.shape[1], rng)
        order = torch.stack([self._permutation(len(y), rng) for _ in self._members()])
        n_held_out = math.ceil(self.validation_fraction * len(y))
        held_out = order[:, :n_held_out] if self.early_stopping else order[:, :0]
        train = order[:, held_out.shape[1] :]
        flat = [p for layer in self._layers for p in layer]
        optimizer = torch.optim.AdamW(
            flat, lr=self.learning_rate_init, weight_decay=self.alpha, foreach=True
        )
        best = torch.full((self.n_members,), math.inf)
        best_weights = [p.detach().clone() for p in flat]
        last_improvement = 0
        for epoch in range(self.max_iter):
            shuffle = torch.stack(
                [self._permutation(train.shape[1], rng) for _ in self._members()]
            )
            for rows in train.gather(1, shuffle).split(self.batch_size, dim=1):
                optimizer.zero_grad()
                self._losses(X[rows], y[rows]).sum().backward()
                optimizer.step()
            if not self.early_stopping:
                continue
            with torch.no_grad():
                losses = self._losses(X[held_out], y[held_out])
            improved = losses < best
            if improved.any():
                last_improvement = epoch
                best = torch.where(improved, losses, best)
                for p, kept in zip(flat, best_weights, strict=True):
                    kept[improved] = p.detach()[improved]
            elif epoch - last_improvement >= self.n_iter_no_change:
                break
        if self.early_stopping:
            self._layers = list(zip(best_weights[::2], best_weights[1::2], strict=True))
        return self

    def predict(self, X, return_std=False):
        """Mean, and the standard deviation, of the equally weighted mixture."""
        means, variances = self._components(X)
        mean = means.mean(0)
        if not return_std:
            return mean
        return mean, np.sqrt((variances + means**2).mean(0) - mean**2)

    def log_prob(self, X, y):
        """Log density of the mixture at each row."""
        means, variances = self._components(X)
        log_density = -0.5 * (
            np.log(2 * np.pi * variances) + (y - means) ** 2 / variances
        )
        return logsumexp(log_density, axis=0) - np.log(self.n_members)

    def _members(self):
        return range(self.n_members)

    def _permutation(self, n, rng):
        return torch.randperm(n, generator=rng)

    def _inputs(self, X):
        return torch.as_tensor((X - self._center) / self._scale, dtype=torch.float32)

    def _initial_layers(self, n_features, rng):
        widths = [n_features, *self.hidden_layer_sizes, 2]
        layers = []
        for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
            bound = fan_in**-0.5
            layers.append(
                tuple(
                    torch.empty(self.n_members, rows, fan_out)
                    .uniform_(-bound, bound, generator=rng)
                    .requires_grad_()
                    for rows in (fan_in, 1)
                )
            )
        return layers

    def _forward(self, X):
        for depth, (weight, bias) in enumerate(self._layers):
            X = torch.baddbmm(bias, X if depth == 0 else torch.relu(X), weight)
        return X[..., 0], torch.nn.functional.softplus(X[..., 1]) + MIN_VARIANCE

    def _losses(self, X, y):
        mean, variance = self._forward(X)
        return 0.5 * (variance.log() + (y - mean) ** 2 / variance).mean(1)

    def _components(self, X):
        with torch.no_grad():
            mean, variance = self._forward(
                self._inputs(X).expand(self.n_members, -1, -1)
            )
        return mean.double().numpy(), variance.double().numpy()
