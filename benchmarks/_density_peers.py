"""Models of densities that stand beside `CNFDensity`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

MAX_COMPONENTS = 15
COMPONENTS = [1, 2, 3, 4, 6, 8, 11, 15]
BANDWIDTHS = np.geomspace(0.05, 2.0, 20)
# Rows that the flows of other libraries keep out, to choose their epoch by.
HELD_OUT = 0.15


def gaussian(seed: int, seconds: float) -> Any:
    """Return one Gaussian with a full covariance."""
    del seed, seconds
    return GaussianMixture(1)


class MixtureByCriterion:
    """Gaussian mixture with the number of components of least BIC."""

    def __init__(self, seed: int, seconds: float) -> None:
        del seconds
        self.seed = seed

    def fit(self, X: np.ndarray) -> MixtureByCriterion:
        fits = [
            GaussianMixture(k, random_state=self.seed).fit(X)
            for k in range(1, MAX_COMPONENTS + 1)
        ]
        self.model = min(fits, key=lambda fit: fit.bic(X))
        return self

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        return self.model.score_samples(X)


def mixture_by_likelihood(seed: int, seconds: float) -> Any:
    """Return a Gaussian mixture whose form five-fold cross-validation chooses."""
    del seconds
    grid = {"n_components": COMPONENTS, "covariance_type": ["full", "diag"]}
    return GridSearchCV(GaussianMixture(random_state=seed), grid, cv=5)


def kernel(seed: int, seconds: float) -> Any:
    """Return a kernel density whose bandwidth five-fold cross-validation chooses."""
    del seed, seconds
    return GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=5)


class ZukoFlow:
    """A flow of zuko, trained for given CPU-seconds, the best epoch on held-out rows.

    Maximum likelihood by Adam at the library's usual rate; the rows are those that the
    other models see.
    """

    def __init__(self, kind: str, seed: int, seconds: float) -> None:
        self.kind, self.seed, self.seconds = kind, seed, seconds

    def fit(self, X: np.ndarray) -> ZukoFlow:
        import torch
        import zuko

        torch.manual_seed(self.seed)
        size = X.shape[1]
        self.flow = {
            "nsf": lambda: zuko.flows.NSF(size, transforms=3, hidden_features=(64, 64)),
            "maf": lambda: zuko.flows.MAF(size, transforms=5, hidden_features=(64, 64)),
            "cnf": lambda: zuko.flows.CNF(size, hidden_features=(64, 64)),
        }[self.kind]()
        order = np.random.default_rng(self.seed).permutation(len(X))
        rows = torch.as_tensor(X[order], dtype=torch.float32)
        n_held_out = max(1, int(HELD_OUT * len(X)))
        held_out, train = rows[:n_held_out], rows[n_held_out:]
        optimizer = torch.optim.AdamW(self.flow.parameters(), lr=1e-3)
        best, kept = np.inf, self.flow.state_dict()
        began = time.process_time()
        while time.process_time() - began < self.seconds:
            for _ in range(5):
                batch = train[torch.randint(len(train), (min(256, len(train)),))]
                loss = -self.flow().log_prob(batch).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.flow.parameters(), 5.0)
                optimizer.step()
            with torch.no_grad():
                judged = -float(self.flow().log_prob(held_out).mean())
            if judged < best:
                best = judged
                kept = {k: v.clone() for k, v in self.flow.state_dict().items()}
        self.flow.load_state_dict(kept)
        return self

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            rows = torch.as_tensor(X, dtype=torch.float32)
            return self.flow().log_prob(rows).double().numpy()


def cnf(seed: int, seconds: float) -> Any:
    """Return ours at its defaults."""
    del seconds
    from skfunc import CNFDensity

    return CNFDensity(random_state=seed)


MODELS: dict[str, Callable[[int, float], Any]] = {
    "CNFDensity": cnf,
    "mixture-BIC": MixtureByCriterion,
    "mixture-CV": mixture_by_likelihood,
    "kernel-CV": kernel,
    "gaussian": gaussian,
    "zuko-NSF": lambda seed, seconds: ZukoFlow("nsf", seed, seconds),
    "zuko-MAF": lambda seed, seconds: ZukoFlow("maf", seed, seconds),
    "zuko-CNF": lambda seed, seconds: ZukoFlow("cnf", seed, seconds),
}


def log_densities(
    name: str, train: np.ndarray, test: np.ndarray, seed: int, seconds: float
) -> tuple[np.ndarray, float, float]:
    """Return test rows' log densities, and CPU-seconds of the fit and of scoring."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MODELS[name](seed, seconds)
        begin = time.process_time()
        model.fit(train)
        fitted = time.process_time()
        if isinstance(model, GridSearchCV):
            model = model.best_estimator_
        logs = np.asarray(model.score_samples(test), dtype=float)
        return logs, fitted - begin, time.process_time() - fitted
