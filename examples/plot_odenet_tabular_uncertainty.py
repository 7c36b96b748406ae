"""
Which patients is the forecast unsure of?
=========================================

Ten measurements of 442 diabetes patients, and the progression of the disease a year
later. The measurements say little about a single patient, so a point forecast is not
worth much; a forecast that knows how wide it must be is.
"""

# %%
# Fit and predict
# ---------------
# One call trains all members of the ensemble. The inputs and the target are
# standardized inside, and a part of the rows is kept from each member to calibrate the
# noise by.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from skfunc import ODENetRegressor
from skfunc.metrics import crps_gaussian, gaussian_nll, interval_coverage
from skfunc.plotting import CoverageDisplay, PredictiveBandDisplay

X, y = load_diabetes(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0)
model = ODENetRegressor(random_state=0).fit(X_train, y_train)
mean, std = model.predict(X_test, return_std=True)
lower, upper = model.predict_interval(X_test, coverage=0.9).T
print(f"R2                        {model.score(X_test, y_test):.2f}")
print(f"negative log-likelihood   {gaussian_nll(y_test, mean, std):.2f}")
print(f"CRPS                      {crps_gaussian(y_test, mean, std):.1f}")
print(f"coverage of 90% intervals {interval_coverage(y_test, lower, upper):.2f}")

# %%
# Wide where it should be
# -----------------------
# If the standard deviations mean something, errors are larger where they are. We cut
# the held-out patients in three by the predicted standard deviation.
error = np.abs(y_test.to_numpy() - mean)
for name, rows in zip(
    ("surest third", "middle third", "least sure third"),
    np.array_split(np.argsort(std), 3),
    strict=True,
):
    print(
        f"{name:<17} predicted std {std[rows].mean():5.1f}, "
        f"root mean square error {np.sqrt(np.mean(error[rows] ** 2)):5.1f}"
    )

# %%
# Two kinds of doubt
# ------------------
# Most of the doubt about these patients is noise, which more patients would not reduce.
# The other part grows where the data end. We take the median patient and move the body
# mass index beyond any that was seen.
median = X_train.median().to_frame().T
low, high = X_train["bmi"].min(), X_train["bmi"].max()
grid = np.linspace(low - 2 * (high - low), high + 2 * (high - low), 200)
moved = median.loc[median.index.repeat(len(grid))].assign(bmi=grid)
epistemic, aleatoric = model.predict_std_parts(moved)

# %%
# The picture
# -----------
# Left: the held-out patients by their prediction. Middle: how many of them the
# intervals hold, against how many they promise; the grey band is what chance allows.
# Right: the members part where the data end. The noise is a network's output too:
# beyond the data it is a guess, kept within what it was for the training rows.
figure, axes = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
PredictiveBandDisplay.from_estimator(model, X_test, y_test, ax=axes[0], name="Mean")
axes[0].set_ylabel("Disease progression")
CoverageDisplay.from_estimator(model, X_test, y_test, ax=axes[1])
axes[2].axvspan(low, high, color="#D9D9D9", label="Range of the training rows")
axes[2].plot(grid, epistemic, color="#0072B2", label="Epistemic")
axes[2].plot(grid, aleatoric, color="#D55E00", label="Aleatoric")
axes[2].set(xlabel="bmi of a median patient", ylabel="Predicted standard deviation")
axes[2].set_ylim(0, 1.4 * max(epistemic.max(), aleatoric.max()))
axes[2].legend(frameon=False, loc="upper center")
plt.show()
