"""
When should training stop?
==========================

A network of infinite width trains in closed form: its prediction after any time of
gradient descent is a formula, and so is the spread over random initial weights. So the
whole path of training can be looked at, from the prior to the end, and the best moment
to stop be chosen from the training rows alone.
"""

# %%
# A noisy row of pixels
# ---------------------
# One row of a photograph that scikit-learn ships: the brightness of a bud and of what
# is behind it. A poor camera adds noise. Four pixels in ten are kept for training, and
# none between 440 and 560; the others are predicted, and compared with the photograph
# itself.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from skfunc import InfiniteWidthRegressor

row = load_sample_image("flower.jpg").mean(axis=2)[90]
brightness = row.reshape(-1, 2).mean(axis=1)
position = np.arange(len(brightness)) * 2.0
generator = np.random.default_rng(0)
observed = brightness + generator.normal(scale=30.0, size=len(brightness))
in_gap = (position > 440) & (position < 560)
seen = (generator.random(len(brightness)) < 0.4) & ~in_gap
X, y = position[seen, None], observed[seen]
X_test, y_test = position[~seen, None], brightness[~seen]
print(f"{len(X)} pixels to train on, {len(X_test)} to predict")

# %%
# The path of training
# --------------------
# Three hidden layers of rectified units, without a ridge that would hold the network
# back: `alpha` is only large enough to keep the linear algebra sound. One fit
# decomposes the kernel matrix, and every training time is then cheap.
fixed = {
    "depth": 3,
    "activation": "relu",
    "weight_std": 2.5,
    "bias_std": 1.0,
    "linear_std": 0.0,
    "selection": None,
}
options = {**fixed, "alpha": 1e-6}
model = InfiniteWidthRegressor(kernel="ntk", training_time="auto", **options).fit(X, y)
print(f"stop at time {model.training_time_:.1f}")
grid = np.linspace(-40.0, 680.0, 361)[:, None]
stages = [0.3, 3.0, 30.0, 10_000.0]
means = model.predict(grid, training_time=stages)

# %%
# Rows left out
# -------------
# `training_time="auto"` compares times by the errors of training rows left out, which
# follow from the same decomposition. Here we look at the whole curve, for both kernels:
# networks whose layers all train ("ntk"), and those that only train the last
# ("nngp"). At a finite time the leave-one-out error is an approximation.
times = np.geomspace(0.1, 1e5, 31)


def root_mean_square(values):
    """Return the root of the mean square along the last axis."""
    return np.sqrt(np.mean(np.square(values), axis=-1))


curves = {}
for kernel in ("ntk", "nngp"):
    path = InfiniteWidthRegressor(kernel=kernel, training_time="auto", **options)
    path.fit(X, y)
    left_out = [
        InfiniteWidthRegressor(kernel=kernel, training_time=time, **options)
        .fit(X, y)
        .loo_predict()
        for time in times
    ]
    curves[kernel] = {
        "predicted": root_mean_square(
            path.predict(X_test, training_time=times) - y_test
        ),
        "left out": root_mean_square(np.array(left_out) - y),
        "chosen": path.training_time_,
        "error": root_mean_square(path.predict(X_test) - y_test),
    }

# %%
# Stopping early is one way to hold a network back; a ridge that the likelihood chooses
# is the other.
print("kernel  stopped  best time  to the end  ridge instead")
for kernel, curve in curves.items():
    ridged = InfiniteWidthRegressor(kernel=kernel, **{**fixed, "selection": "lml"}).fit(
        X, y
    )
    print(
        f"{kernel:<6}  {curve['error']:7.1f}  {curve['predicted'].min():9.1f}  "
        f"{curve['predicted'][-1]:10.1f}  "
        f"{root_mean_square(ridged.predict(X_test) - y_test):13.1f}"
    )

# %%
# The picture
# -----------
# Left: coarse shapes are learnt first, noise last. Middle: the ensemble at the time
# that was chosen; each thin line is one trained network, and they part in the gap and
# beyond the edges. Right: the error against the photograph falls, then rises as the
# noise is learnt. Errors of rows left out lie higher by the noise, and tell when to
# stop. The last layer alone needs far more time for the same, and its curve of rows
# left out is flatter, so that it is stopped too late.
figure, axes = plt.subplots(1, 3, figsize=(15, 4.8), layout="constrained")
stage_colors = plt.get_cmap("viridis")(np.linspace(0.85, 0.0, len(stages)))
for mean, time, color in zip(means, stages, stage_colors, strict=True):
    width = 0.8 if time == stages[-1] else 1.6
    axes[0].plot(grid[:, 0], mean, color=color, linewidth=width, label=f"t = {time:g}")
axes[0].set_title("The mean through training")
mean, std = model.predict(grid, return_std=True)
epistemic, _ = model.predict_std_parts(grid)
draws = model.sample_y(grid, n_samples=8, random_state=1)
for half_width, shade, name in (
    (2 * std, "#F6E3D6", "± 2 std of a pixel"),
    (2 * epistemic, "#EBB793", "± 2 std of a network"),
):
    axes[1].fill_between(
        grid[:, 0], mean - half_width, mean + half_width, color=shade, label=name
    )
axes[1].plot(grid[:, 0], draws, color="#0072B2", linewidth=0.6)
axes[1].plot([], [], color="#0072B2", linewidth=0.6, label="trained networks")
axes[1].plot(grid[:, 0], mean, color="#D55E00", label="mean")
axes[1].set_title(f"The ensemble at the chosen time, t = {model.training_time_:.1f}")
for axis in axes[:2]:
    axis.plot(position, brightness, color="0.6", zorder=0, label="photograph")
    axis.plot(X[:, 0], y, "k.", markersize=4, label="pixels seen", zorder=3)
    axis.set(xlabel="Position in the row (pixels)", ylabel="Brightness")
    axis.set_ylim(-50, 330)
    axis.legend(fontsize="small", loc="upper left", ncols=2)
for (kernel, curve), color in zip(curves.items(), ("#D55E00", "#009E73"), strict=True):
    name = kernel.upper()
    axes[2].plot(times, curve["predicted"], color=color, label=f"{name}, new pixels")
    axes[2].plot(
        times, curve["left out"], "--", color=color, label=f"{name}, rows left out"
    )
    axes[2].plot(
        curve["chosen"], curve["error"], "o", color=color, label=f"{name}, time chosen"
    )
axes[2].set(
    xscale="log",
    ylim=(15, 70),
    xlabel="Training time t",
    ylabel="Root mean square error",
    title="When to stop",
)
axes[2].legend(fontsize="small", loc="upper right", ncols=2)
plt.show()
