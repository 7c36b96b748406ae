"""Make the pictures that the repository keeps: ``python docs/pictures.py``.

Each is the figure of an example or a benchmark, small enough to be a file of the
repository.
"""

import runpy
import sys
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


def events():
    """Draw the rates of events of the benchmark, which needs its data sets."""
    sys.path.insert(0, str(DOCS.parent / "benchmarks"))
    import latent_ode_events

    if not (latent_ode_events.data_folder() / "events").exists():
        print("no picture of events: needs the data sets, see SKFUNC_DATA")
        return
    keep(latent_ode_events.figure(), "latent_ode_events.png")


def keep(figure, name):
    path = DOCS / "_static" / name
    figure.savefig(path, dpi=75)
    print(f"{path.relative_to(DOCS.parent)}: {path.stat().st_size / 1000:.0f} kB")


def main():
    # The examples show their figures; there is no screen to show them on.
    warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
    for script, name in PICTURES.items():
        plt.close("all")
        runpy.run_path(str(DOCS.parent / "examples" / script))
        keep(plt.gcf(), name)
    plt.close("all")
    events()


if __name__ == "__main__":
    main()
