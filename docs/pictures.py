"""Make the pictures that the repository keeps: ``python docs/pictures.py``.

Each is the figure of an example, small enough to be a file of the repository.
"""

import runpy
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parent
PICTURES = {
    "plot_conditional_density.py": "conditional_density.png",
    "plot_density.py": "density.png",
    "plot_infinite_width_training_time.py": "infinite_width.png",
    "plot_latent_ode.py": "latent_ode.png",
    "plot_odenet_tabular_uncertainty.py": "uncertainty.png",
    "plot_sde_bnn.py": "sde_bnn.png",
    "plot_tabular_prior.py": "tabular_prior.png",
}


def main():
    # The examples show their figures; there is no screen to show them on.
    warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
    for script, name in PICTURES.items():
        plt.close("all")
        runpy.run_path(str(DOCS.parent / "examples" / script))
        path = DOCS / "_static" / name
        plt.gcf().savefig(path, dpi=75)
        print(f"{path.relative_to(DOCS.parent)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
