"""
Densities from a flow
=====================

`CNFDensity` learns how rows flow from a normal distribution to where they lie. The same
flow read backwards gives the exact log density of any row; read forwards it draws new
rows. Here it learns two moons, is asked what is unusual, and makes a classifier.
"""

# %%
# Two moons
# ---------
# With ``base="normal"`` the flow has to do all the work, which is what there is to see.
# By default a fit also tries mixtures and kernel densities, and takes a flow only
# where it is better on rows that were held out.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine, make_moons
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from skfunc import CNFDensity

X, _ = make_moons(600, noise=0.08, random_state=0)
flow = CNFDensity(base="normal", learning_rate_init=1e-2, random_state=0).fit(X)
fresh, _ = make_moons(1000, noise=0.08, random_state=1)
print(f"mean log density of unseen rows: {flow.score(fresh):.2f}")

# %%
# What is unusual
# ---------------
# Rows less likely than all but a twentieth of the data are called unusual. Beside the
# density stand the paths that draws come along, from the normal at t = 0.
threshold = np.quantile(flow.score_samples(X), 0.05)
rows, columns = np.mgrid[-1.2:1.7:110j, -1.8:2.8:140j]
grid = np.column_stack([columns.ravel(), rows.ravel()])
log_density = flow.score_samples(grid).reshape(rows.shape)
paths = flow.trajectories(60, np.linspace(0, 1, 21), random_state=2)
draws = flow.sample(600, random_state=1)

figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
axes[0].pcolormesh(columns, rows, np.exp(log_density), cmap="Blues", shading="gouraud")
axes[0].contour(columns, rows, log_density, [threshold], colors="tab:red")
axes[0].plot(*X.T, ".", color="black", markersize=1.5)
axes[0].set_title("density, and where 95 % of the rows lie")
for path in np.moveaxis(paths, 1, 0):
    axes[1].plot(*path.T, color="grey", linewidth=0.6)
axes[1].plot(*paths[0].T, "o", color="tab:orange", markersize=3, label="t = 0")
axes[1].plot(*paths[-1].T, "o", color="tab:blue", markersize=3, label="t = 1")
axes[1].legend(loc="lower left")
axes[1].set_title("the flow in time")
axes[2].plot(*draws.T, ".", color="tab:blue", markersize=2)
axes[2].set_title("600 draws")
for axis in axes[[0, 2]]:
    axis.set(xlim=(-1.8, 2.8), ylim=(-1.2, 1.7))
plt.show()

# %%
# A generative classifier
# -----------------------
# One density for each class, and Bayes' rule: three cultivars of wine, in four
# principal components. Rows are too few for a flow here, and the fit says so: it kept
# the base alone.
wine, cultivar = load_wine(return_X_y=True)
scaled = (wine - wine.mean(0)) / wine.std(0)
components = PCA(4, random_state=0).fit_transform(scaled)
X_train, X_test, y_train, y_test = train_test_split(
    components, cultivar, random_state=0
)
models = [
    CNFDensity(max_components=3, max_iter=50, random_state=0).fit(X_train[y_train == k])
    for k in range(3)
]
prior = np.log(np.bincount(y_train) / len(y_train))
joint = np.column_stack([model.score_samples(X_test) for model in models]) + prior
print(f"accuracy {(joint.argmax(axis=1) == y_test).mean():.2f}")
print("a flow was kept:", [model.has_flow_ for model in models])
