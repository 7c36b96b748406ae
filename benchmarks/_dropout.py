"""MC dropout for regression: dropout stays on in predictions."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin
from torch import nn

# Rates of dropout that are tried, by rows kept out; the paper's grid.
DROPOUT_RATES = (0.005, 0.01, 0.05, 0.1)


class MCDropoutRegressor(RegressorMixin, BaseEstimator):
    """Networks with dropout, averaged over passes; the noise is one number.

    A tenth of the rows chooses the rate of dropout, the epoch and the noise, as each
    makes them most likely.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(50,)
        Widths; dropout comes before each layer.
    n_passes : int, default=100
        Passes that a prediction averages.
    max_iter : int, default=400
        Most epochs.
    batch_size : int, default=32
        Rows of a gradient step.
    learning_rate_init : float, default=0.01
        Step of Adam.
    alpha : float, default=1e-4
        Decoupled weight decay.
    n_iter_no_change : int, default=30
        Epochs without a lower squared error after which training ends.
    random_state : int, default=0
        Seed.

    References
    ----------
    Y. Gal, Z. Ghahramani. Dropout as a Bayesian Approximation: Representing Model
    Uncertainty in Deep Learning. 2016. arXiv:1506.02142
    """

    def __init__(
        self,
        hidden_layer_sizes=(50,),
        n_passes=100,
        max_iter=400,
        batch_size=32,
        learning_rate_init=0.01,
        alpha=1e-4,
        n_iter_no_change=30,
        random_state=0,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.n_passes = n_passes
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.alpha = alpha
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state

    def fit(self, X, y):
        """Train a network for each rate and keep the likeliest."""
        self.center_, self.scale_ = X.mean(0), X.std(0)
        self.scale_ = np.where(self.scale_ > 0, self.scale_, 1.0)
        self.y_mean_, self.y_scale_ = y.mean(), y.std() or 1.0
        rows = self._inputs(X)
        targets = (y - self.y_mean_) / self.y_scale_
        order = np.random.default_rng(self.random_state).permutation(len(y))
        held, kept = np.split(order, [max(1, len(y) // 10)])
        best = -np.inf
        # Dropout knows the global generator alone; it is put back afterwards.
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            for rate in DROPOUT_RATES:
                network = self._train(rows, targets, kept, held, rate)
                passes = self._passes(network, rows[held])
                scores = {
                    noise: _log_density(passes, targets[held], noise).mean()
                    for noise in np.exp(np.linspace(-5, 1, 61))
                }
                noise = max(scores, key=scores.get)
                if scores[noise] > best:
                    best = scores[noise]
                    self.network_, self.noise_, self.dropout_ = network, noise, rate
        return self

    def predict(self, X, return_std=False):
        """Mean and standard deviation over the passes, the noise included."""
        passes = self._drawn(X)
        mean = self.y_mean_ + self.y_scale_ * passes.mean(0)
        if not return_std:
            return mean
        return mean, self.y_scale_ * np.sqrt(passes.var(0) + self.noise_**2)

    def log_prob(self, X, y):
        """Log density of the mixture over the passes."""
        targets = (y - self.y_mean_) / self.y_scale_
        found = _log_density(self._drawn(X), targets, self.noise_)
        return found - np.log(self.y_scale_)

    def _drawn(self, X):
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            return self._passes(self.network_, self._inputs(X))

    def _inputs(self, X):
        return torch.as_tensor((X - self.center_) / self.scale_, dtype=torch.float32)

    def _passes(self, network, rows):
        network.train()
        with torch.no_grad():
            drawn = [network(rows)[:, 0] for _ in range(self.n_passes)]
        return torch.stack(drawn).double().numpy()

    def _train(self, rows, targets, kept, held, rate):
        widths = [rows.shape[1], *self.hidden_layer_sizes]
        layers = []
        for n_in, n_out in zip(widths, widths[1:], strict=False):
            layers += [nn.Dropout(rate), nn.Linear(n_in, n_out), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Dropout(rate), nn.Linear(widths[-1], 1))
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=self.learning_rate_init, weight_decay=self.alpha
        )
        y = torch.as_tensor(targets, dtype=torch.float32)[:, None]
        best, waited, state = np.inf, 0, network.state_dict()
        for _ in range(self.max_iter):
            network.train()
            shuffled = torch.as_tensor(kept)[torch.randperm(len(kept))]
            for batch in shuffled.split(self.batch_size):
                optimizer.zero_grad()
                nn.functional.mse_loss(network(rows[batch]), y[batch]).backward()
                optimizer.step()
            network.eval()
            with torch.no_grad():
                error = nn.functional.mse_loss(network(rows[held]), y[held]).item()
            waited += 1
            if error < best:
                best, waited = error, 0
                state = {k: v.clone() for k, v in network.state_dict().items()}
            if waited >= self.n_iter_no_change:
                break
        network.load_state_dict(state)
        return network


def _log_density(passes, targets, noise):
    densities = norm.logpdf(targets, passes, noise)
    return logsumexp(densities, axis=0) - np.log(len(passes))
