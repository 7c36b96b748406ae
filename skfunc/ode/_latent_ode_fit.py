"""How a latent ODE is fitted to series."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from skfunc.ode._latent_ode_estimator import BaseLatentODE, _Runtime
from skfunc.ode._latent_ode_training import Labels, SeriesTraining, train_series
from skfunc.ode._panel import PaddedSeries
from skfunc.training import TrainingResult, resolve_device, thread_limits

# Series from which "auto" keeps some out: fewer would be too few to judge by.
_FEWEST_SERIES_TO_SPLIT = 40
# A label says less than a series: as many held-out ones judge, or a share of all.
_LABELS_TO_JUDGE, _LARGEST_JUDGING_SHARE = 50, 0.2
# Series up to which a fit on the CPU is in double precision.
_FEW_SERIES = 64
# Share of the epochs over which the divergence's weight rises.
_DIVERGENCE_WARMUP = 0.2
# Observed values in a batch up to which a fit runs on one thread.
_SMALL_FIT = 200_000


class SeriesFit(BaseLatentODE):
    """Training on series, with labels or without."""

    def _fit_series(
        self,
        series: PaddedSeries,
        random_state: np.random.RandomState,
        labels: Labels | None = None,
    ) -> None:
        """Learn scales, train and set the fitted attributes."""
        self._learn_scales(series)
        if not self.channel_observed_.all():
            channels = np.flatnonzero(~self.channel_observed_).tolist()
            warnings.warn(
                f"X has no observation of channels {channels}: NaN is predicted there",
                UserWarning,
                stacklevel=4,
            )
        options = self._options(series, int(random_state.randint(2**31 - 1)))
        held_out = self._held_out(len(series), random_state, labels)
        self.draw_seed_ = int(random_state.randint(2**31 - 1))
        self._runtime = _Runtime()
        inner = self._inner(series)
        self.periods_ = self._starting_periods(inner)
        self.n_steps_ = self._solver_steps(series.times.shape[1])
        numbers = options.batch_size * inner.mask[0].size
        with thread_limits(small=numbers < _SMALL_FIT):
            result = train_series(
                self._stack(),
                self._latent_size,
                inner,
                self._windows(series),
                held_out,
                options,
                self._report,
                labels,
            )
        self._keep(result)
        if result.interrupted:
            raise KeyboardInterrupt

    def _options(self, series: PaddedSeries, seed: int) -> SeriesTraining:
        device = resolve_device(self.device)
        exact = len(series) <= _FEW_SERIES and device.type == "cpu"
        return SeriesTraining(
            learning_rate=float(self.learning_rate_init),
            alpha=float(self.alpha),
            beta=float(self.beta),
            divergence_warmup=_DIVERGENCE_WARMUP,
            max_iter=self._epochs(series),
            batch_size=self._batch(len(series)),
            n_iter_no_change=int(self.n_iter_no_change),
            context_end=self._context_end(),
            most_hidden=float(self.observation_dropout),
            label_weight=float(getattr(self, "label_weight", 0.0)),
            device=device,
            dtype=torch.float64 if exact else torch.float32,
            seed=seed,
        )

    def _held_out(
        self,
        n_series: int,
        random_state: np.random.RandomState,
        labels: Labels | None = None,
    ) -> NDArray[np.bool_]:
        held_out = np.zeros(n_series, dtype=bool)
        if self.early_stopping is False or n_series < 2:
            return held_out
        if self.early_stopping == "auto" and n_series < _FEWEST_SERIES_TO_SPLIT:
            return held_out
        n_held_out = max(1, round(float(self.validation_fraction) * n_series))
        if labels is not None:
            most = round(_LARGEST_JUDGING_SHARE * n_series)
            n_held_out = max(n_held_out, min(_LABELS_TO_JUDGE, most))
        n_held_out = min(n_held_out, n_series - 1)
        order = random_state.permutation(n_series)
        if labels is None:
            held_out[order[:n_held_out]] = True
            return held_out
        # Every so many of the series sorted by class, none of a class of one.
        classes = labels.positions[order]
        order = order[np.argsort(classes, kind="stable")]
        order = order[np.bincount(classes)[labels.positions[order]] > 1]
        if len(order):
            chosen = np.linspace(0, len(order), n_held_out, endpoint=False)
            held_out[order[chosen.astype(int)]] = True
        return held_out

    def _report(self, result: TrainingResult) -> bool:
        if self.verbose:
            line = f"epoch {result.n_iter}: loss {result.losses[-1][0]:.5f}"
            if result.validation_losses:
                line += f", held out {result.validation_losses[-1][0]:.5f}"
            print(line)
        return False

    def _keep(self, result: TrainingResult) -> None:
        self.parameters_ = result.flat.detach().cpu().double().numpy()
        self.n_iter_ = max(1, result.n_iter)
        self.best_iter_ = int(result.best_epochs[0])
        self.loss_curve_ = [float(row[0]) for row in result.losses]
        judged = [-float(row[0]) for row in result.validation_losses]
        self.validation_scores_ = judged or None
        self.n_retries_ = int(result.n_retries[0])
