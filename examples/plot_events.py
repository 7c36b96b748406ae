"""
When do calls come in?
======================

Two days of calls at a help desk: more by day than by night, and more on the second
day. `LatentODE.fit_events` learns how often calls come from their times alone, with a
band around the rate. The times are simulated, so that the true rate is known.
"""

# %%
# The data
# --------
# Poisson processes of a known rate, in calls an hour, drawn by thinning: two days to
# learn from, and the same two days once more to test.
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import kstest
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity

from skfunc import LatentODE

END, HIGHEST = 48.0, 16.0


def true_rate(hours):
    return (4 + 4 * hours / END) * (1 + 0.9 * np.sin(2 * np.pi * (hours - 8) / 24))


def draw_calls(seed):
    rng = np.random.default_rng(seed)
    hours = np.sort(rng.uniform(0, END, size=rng.poisson(HIGHEST * END)))
    return hours[rng.uniform(0, HIGHEST, size=len(hours)) < true_rate(hours)]


calls, test = draw_calls(0), draw_calls(1)
print(f"{len(calls)} calls, {len(calls) / END:.1f} an hour")

# %%
# Three rates
# -----------
# Members of the latent ODE are each trained without a fifth of the calls, and keep the
# weights under which those are likeliest: that is how smooth the rate should be. A
# kernel estimate has the bandwidth that is best by cross-validation, and no band.
model = LatentODE(random_state=0).fit_events([calls], (0, END))
kernel = GridSearchCV(
    KernelDensity(),
    {"bandwidth": np.geomspace(0.1, 10, 30)},
    cv=KFold(10, shuffle=True, random_state=0),
).fit(calls[:, None])


def even_rate(hours):
    return np.full(len(hours), len(calls) / END)


def kernel_rate(hours):
    return len(calls) * np.exp(kernel.score_samples(hours[:, None]))


def model_rate(hours):
    return model.intensity([calls], hours)[0]


hours = np.linspace(0, END, 801)
for name, rate in (
    ("even rate", even_rate),
    ("kernel", kernel_rate),
    ("LatentODE", model_rate),
    ("true rate", true_rate),
):
    logs, expected = np.log(rate(test)), np.trapezoid(rate(hours), hours)
    print(f"{name}: {(logs.sum() - expected) / len(test):.3f} nats per test call")

# %%
# Time, rescaled
# --------------
# If the rate is right, time that passes as fast as calls come leaves gaps between them
# that are exponential, whatever the rate is.
gaps = np.diff(model.cumulative_intensity([calls], test)[0], prepend=0)
even_gaps = np.diff(test, prepend=0) * len(calls) / END
for name, own in (("LatentODE", gaps), ("even rate", even_gaps)):
    print(f"{name}: p = {kstest(own, 'expon').pvalue:.2g}")

# %%
# The picture
# -----------
# Right, the rescaled gaps in order against what an exponential has there.
figure, axes = plt.subplots(
    1, 2, figsize=(10, 3.8), width_ratios=(2, 1), layout="constrained"
)
low, high = (ends[0] for ends in model.intensity_interval([calls], hours))
inside = (low < true_rate(hours)) & (true_rate(hours) < high)
print(f"the true rate is in the band for {inside.mean():.0%} of the time")
axes[0].fill_between(hours, low, high, alpha=0.3, linewidth=0, label="band of 90 %")
axes[0].plot(hours, model_rate(hours), label="LatentODE")
axes[0].plot(hours, kernel_rate(hours), color="tab:orange", lw=1, label="kernel")
axes[0].plot(hours, true_rate(hours), "--", color="black", lw=1, label="truth")
foot = axes[0].get_xaxis_transform()
axes[0].plot(calls, np.full(len(calls), 0.03), "|", color="black", transform=foot)
axes[0].set_ylim(0)
axes[0].set_xticks(np.arange(0, END + 1, 6))
axes[0].set_xlabel("hour")
axes[0].set_title("calls an hour")
axes[0].legend(loc="upper left")
expected = -np.log1p(-(np.arange(len(test)) + 0.5) / len(test))
axes[1].plot(expected, np.sort(gaps), ".", label="LatentODE")
axes[1].plot(expected, np.sort(even_gaps), "x", markersize=4, label="even rate")
axes[1].plot([0, expected[-1]], [0, expected[-1]], color="black", lw=0.8)
axes[1].set_xlabel("exponential")
axes[1].set_title("rescaled gaps of test calls")
axes[1].legend()
plt.show()
