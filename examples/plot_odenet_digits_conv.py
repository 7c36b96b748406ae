"""
Images: a convolutional field on handwritten digits
===================================================

Rows that are flattened images keep their shape inside the network: with `image_shape`
the state is a stack of feature maps, and the field that carries it through depth is
made of convolutions. We compare it with a field that sees 64 unrelated columns.
"""

# %%
# Two fields
# ----------
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from skfunc import ODENetClassifier
from skfunc.metrics import expected_calibration_error

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0)
shared = {"n_members": 2, "n_steps": 1, "max_iter": 30, "random_state": 0}
models = {
    "mlp": ODENetClassifier(state_size=32, hidden_layer_sizes=(32,), **shared),
    "conv": ODENetClassifier(
        image_shape=(1, 8, 8),
        state_size=16,
        learning_rate_init=0.02,
        **shared,
    ),
}
for name, model in models.items():
    proba = model.fit(X_train, y_train).predict_proba(X_test)
    print(
        f"{name:<5} {model.parameters_.shape[1]:>5} parameters a member, "
        f"accuracy {model.score(X_test, y_test):.3f}, "
        f"log-loss {log_loss(y_test, proba):.3f}, "
        f"calibration error {expected_calibration_error(y_test, proba):.3f}"
    )

# %%
# Knowing when to pass
# --------------------
# Digits in doubt can be handed to a person. If the doubt is worth something, accuracy
# on the digits that are kept rises as more are handed on.
shares = np.linspace(0, 0.2, 21)
curves = {}
for name, model in models.items():
    proba = model.predict_proba(X_test)
    right = model.classes_[proba.argmax(axis=1)] == y_test
    surest_first = right[np.argsort(-proba.max(axis=1))]
    kept = np.round((1 - shares) * len(right)).astype(int)
    curves[name] = [surest_first[:k].mean() for k in kept]

# %%
# The picture
# -----------
# On the right are the digits that the convolutional members agree on least.
proba, std = models["conv"].predict_proba(X_test, return_std=True)
top = proba.argmax(axis=1)
doubt = std[np.arange(len(top)), top]

figure = plt.figure(figsize=(12, 4.4), layout="constrained")
left, right = figure.subfigures(1, 2)
ax = left.subplots()
for name, curve in curves.items():
    ax.plot(100 * shares, curve, marker="o", markersize=3, label=name)
ax.set(xlabel="Digits handed on, in %", ylabel="Accuracy on the digits kept")
ax.legend(frameon=False)
for ax, row in zip(right.subplots(2, 5).flat, np.argsort(-doubt), strict=False):
    ax.imshow(X_test[row].reshape(8, 8), cmap="gray_r")
    ax.set_title(f"{y_test[row]}, said {top[row]}", fontsize=9)
    ax.set_axis_off()
plt.show()
