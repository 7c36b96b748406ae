"""
Cheaper predictions from a network that is trained already
==========================================================

The depth of an ODE-Net is the work of its solver, and the solver's tolerance may change
after training. Is a loose tolerance good enough, and do some digits cost more than
others?
"""

# %%
# Train once
# ----------
# A narrow state, so that the flow has work to do, trained on a fixed grid, which is
# quick.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skfunc import ODENetClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
model = ODENetClassifier(
    state_size=8, n_members=3, solver="rk4", n_steps=2, max_iter=40, random_state=0
).fit(X_train, y_train)
print(f"accuracy {model.score(X_test, y_test):.3f}")
print(model.solver_report_)

# %%
# Change the tolerance
# --------------------
# `tolerance_curve` scores the same network with the adaptive method at each tolerance,
# and tells what it cost. Against a solution at a much tighter tolerance we also see the
# error of the solver.
rtols = np.logspace(0, -5, 6)
curve = model.tolerance_curve(X_test, y_test, rtols)
exact = model.predict_proba(X_test, rtol=1e-8)
errors = [np.abs(model.predict_proba(X_test, rtol=r) - exact).max() for r in rtols]
print("   rtol  accuracy  evaluations  error")
for row in zip(curve.rtol, curve.score, curve.nfe, errors, strict=True):
    print("{:7.0e}  {:8.3f}  {:11.1f}  {:.0e}".format(*row))

# %%
# Or choose the steps of the fixed grid.
for n_steps in (1, 2, 4):
    proba = model.predict_proba(X_test, n_steps=n_steps)
    error = np.abs(proba - exact).max()
    print(f"{n_steps} steps: {model.nfe_:.0f} evaluations, error {error:.0e}")

# %%
# Hard digits
# -----------
# Every row takes steps of its own, so `nfe` can tell the rows apart. What is hard for
# the solver is a curved path, not a doubtful digit.
evaluations = model.nfe(X_test, rtol=1e-4)
confidence = model.predict_proba(X_test).max(axis=1)
correlation = np.corrcoef(evaluations, confidence)[0, 1]
print(f"correlation of evaluations and confidence: {correlation:.2f}")

# %%
# The picture
# -----------
# Tolerances that differ by orders of magnitude give the same accuracy here: the flow
# that training finds is smooth, and a coarse solution of it decides as a fine one does.
figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
axes[0].semilogx(curve.rtol, curve.score, "o-", color="#0072B2", label="Accuracy")
axes[0].set(xlabel="Relative tolerance", ylabel="Accuracy", ylim=(0.9, 1))
axes[0].invert_xaxis()
axes[1].semilogy(curve.nfe, errors, "o-", color="#009E73")
axes[1].set(xlabel="Evaluations per row", ylabel="Largest error of a probability")
axes[2].boxplot(
    [evaluations[y_test == digit] for digit in range(10)],
    tick_labels=[str(digit) for digit in range(10)],
)
axes[2].set(xlabel="Digit", ylabel="Evaluations at rtol=1e-4")
plt.show()
