"""
How wide is infinitely wide?
============================

An infinitely wide network trains as a linear model in its tangent kernel, so the mean
and the spread of an infinite ensemble of trained networks have a closed form at every
training time. Here real networks, of growing width, are trained by gradient descent
beside it.
"""

# %%
# Data
# ----
# Eight noisy points of a curve, and a grid beyond them.
import matplotlib.pyplot as plt
import numpy as np

from skfunc import FiniteEnsemble
from skfunc.infinite_width import empirical_ntk
from skfunc.infinite_width import layers as L

generator = np.random.default_rng(3)
X = np.linspace(-2.0, 2.0, 8)[:, None]
y = np.sin(2 * X[:, 0]) + 0.1 * generator.normal(size=8)
X_test = np.linspace(-3.0, 3.0, 61)[:, None]
y_test = np.sin(2 * X_test[:, 0])

# %%
# The closed form
# ---------------
# With the tangent kernel T and the covariance K of random networks, gradient flow for a
# time t from random weights gives the mean B y, with B as below, and this variance.
# `FiniteEnsemble` standardizes inside, so the rows and targets are standardized here
# before.
options = {"depth": 2, "activation": "erf", "weight_std": 1.5, "bias_std": 0.3}
net = L.preset("mlp", **options)
X_mean, X_scale, y_mean, y_scale = X.mean(), X.std(), y.mean(), y.std()
rows = (X - X_mean) / X_scale
targets = (y - y_mean) / y_scale


def infinite(at, time):
    """Return mean and variance of the infinite ensemble, in units of y."""
    at = (at - X_mean) / X_scale
    values, vectors = np.linalg.eigh(net.kernel(rows))
    response = -np.expm1(-values * time / len(rows)) / values
    B = net.kernel(at, rows) @ (vectors * response) @ vectors.T
    K = net.kernel(rows, kind="nngp")
    K_at = net.kernel(at, rows, kind="nngp")
    prior = np.diag(net.kernel(at, kind="nngp"))
    variance = prior + ((B @ K - 2 * K_at) * B).sum(axis=1)
    return y_mean + y_scale * (B @ targets), y_scale**2 * variance


# %%
# Networks of finite width
# ------------------------
# Thirty members of each width are trained to each of these times, side by side in one
# pass.
widths, n_members = (8, 32, 128, 512), 30
times = np.geomspace(0.5, 32.0, 6)
ensembles = {
    width: [
        FiniteEnsemble(
            width=width,
            n_members=n_members,
            training_time=time,
            learning_rate=0.4,
            random_state=0,
            **options,
        ).fit(X, y)
        for time in times
    ]
    for width in widths
}
print(f"{ensembles[512][-1].n_iter_} steps to t = {times[-1]:g}")


# %%
# How far is each width from the limit? A mean of thirty functions is uncertain by
# itself: the last column is what thirty members of the infinite ensemble would miss by.
def error_of_member(at, truth, mean, std):
    """Return the mean squared error of a member, averaged over members and rows."""
    return np.mean((mean - truth) ** 2 + std**2)


def functions(model, at):
    """Return mean and standard deviation over the members."""
    return model.predict(at), model.predict_std_parts(at)[0]


print("width  error of the mean  error of the std  by chance alone")
mean, variance = infinite(X_test, times[-1])
chance = np.sqrt(np.mean(variance) / n_members)
for width in widths:
    found, spread = functions(ensembles[width][-1], X_test)
    off = np.sqrt(np.mean((found - mean) ** 2))
    off_std = np.sqrt(np.mean((spread - np.sqrt(variance)) ** 2))
    print(f"{width:5d}  {off:17.3f}  {off_std:16.3f}  {chance:15.3f}")

# %%
# The kernel of a random network converges too, with an error that falls as the root of
# the width.
exact = net.kernel(rows)
kernel_errors = []
for width in widths:
    kernels = [
        empirical_ntk(net.to_module(width, 1, random_state=seed), rows)
        for seed in range(20)
    ]
    kernel_errors.append(
        np.sqrt(np.mean((kernels - exact) ** 2)) / exact.diagonal().mean()
    )
slope = np.polyfit(np.log(widths), np.log(kernel_errors), 1)[0]
print(f"the error falls as width to the power of {slope:.2f}")

# %%
# The picture
# -----------
# Lines are the closed form, symbols are trained networks. Narrow networks part from the
# line as training goes on: their members disagree more and learn less. At a width of
# 512 the closed form tells at every time, to a few hundredths, what training does to
# error and spread. The test error rises again where the grid leaves the data and
# nothing holds the functions.
colors = dict(zip(widths, ("#CC79A7", "#E69F00", "#009E73", "#0072B2"), strict=True))
markers = dict(zip(widths, "v^so", strict=True))
figure, axes = plt.subplots(2, 2, figsize=(12, 8.6), layout="constrained")
errors, spreads, bands, kernels = axes.flat
smooth = np.geomspace(times[0] / 1.3, times[-1] * 1.3, 80)
path = [infinite(X_test, time) for time in smooth]
fitted = [infinite(X, time) for time in smooth]
test_line = [error_of_member(X_test, y_test, m, np.sqrt(v)) for m, v in path]
train_line = [error_of_member(X, y, m, np.sqrt(np.maximum(v, 0))) for m, v in fitted]
errors.plot(smooth, test_line, "k-", label="infinite, test")
errors.plot(smooth, train_line, "k--", label="infinite, training")
spreads.plot(smooth, [np.sqrt(v.mean()) for _, v in path], "k-", label="infinite")
for width, models in ensembles.items():
    style = {"color": colors[width], "marker": markers[width], "linestyle": "none"}
    on_test = [functions(model, X_test) for model in models]
    on_train = [functions(model, X) for model in models]
    test = [error_of_member(X_test, y_test, *part) for part in on_test]
    train = [error_of_member(X, y, *part) for part in on_train]
    errors.plot(times, test, label=f"width {width}", **style)
    errors.plot(times, train, fillstyle="none", **style)
    deviation = [np.sqrt(np.mean(std**2)) for _, std in on_test]
    spreads.plot(times, deviation, label=f"width {width}", **style)
errors.set(
    xscale="log",
    yscale="log",
    xlabel="Training time t (rate × steps)",
    ylabel="Mean squared error of a member (units of y²)",
    title="Error (filled: test, open: training)",
)
errors.legend(fontsize="small")
spreads.set(
    xscale="log",
    xlabel="Training time t (rate × steps)",
    ylabel="Standard deviation over members (units of y)",
    title="Spread of the ensemble on the test grid",
)
spreads.legend(fontsize="small")
std = np.sqrt(variance)
grid = X_test[:, 0]
bands.fill_between(
    grid, mean - 2 * std, mean + 2 * std, color="0.85", label="infinite, ± 2 std"
)
bands.plot(grid, mean, "k-", label="infinite, mean")
for width in (8, 512):
    found, spread = functions(ensembles[width][-1], X_test)
    bands.plot(grid, found, "--", color=colors[width], label=f"width {width}")
    for sign in (-2, 2):
        bands.plot(grid, found + sign * spread, ":", color=colors[width])
bands.plot(X[:, 0], y, "k.", markersize=10, label="training rows", zorder=3)
bands.set(xlabel="x", ylabel="y", title=f"Functions at t = {times[-1]:g}")
bands.legend(fontsize="small", ncols=2, loc="upper center")
kernels.loglog(widths, kernel_errors, "k-", linewidth=0.8)
for width, error in zip(widths, kernel_errors, strict=True):
    kernels.loglog(width, error, markers[width], color=colors[width], markersize=8)
guide = kernel_errors[-1] * np.sqrt(widths[-1] / np.array(widths))
kernels.loglog(widths, guide, "--", color="0.6", label="1 / √width")
kernels.set_yticks([0.1, 0.2, 0.5], labels=["0.1", "0.2", "0.5"])
kernels.set_xticks(widths, labels=[str(width) for width in widths])
kernels.minorticks_off()
kernels.set(
    xlabel="Width (units in each hidden layer)",
    ylabel="Relative error (root mean square)",
    title="Tangent kernel of one random network",
)
kernels.legend()
plt.show()
