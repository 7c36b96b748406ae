"""Butcher tableaux of the explicit Runge-Kutta methods, as data with their sources."""

from __future__ import annotations

from typing import NamedTuple


class Tableau(NamedTuple):
    """Coefficients of an explicit Runge-Kutta method.

    Stage ``i`` evaluates ``k_i = f(t + c_i h, y + h sum_j a_ij k_j)``; the step is
    ``y + h sum_i b_i k_i`` and its error estimate ``h sum_i e_i k_i``. With
    ``first_same_as_last`` the last stage is evaluated at the new state itself, so that
    it serves as the first stage of the next step.
    """

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...] = ()
    first_same_as_last: bool = False

    @property
    def n_stages(self) -> int:
        """Number of stages, the first included."""
        return len(self.c)


# Hairer, Norsett and Wanner 1993, Solving Ordinary Differential Equations I,
# section II.1: Euler (1768), Runge's midpoint rule (1895), Heun (1900), Kutta (1901).
EULER = Tableau(order=1, c=(0.0,), a=((),), b=(1.0,))

MIDPOINT = Tableau(order=2, c=(0.0, 1 / 2), a=((), (1 / 2,)), b=(0.0, 1.0))

HEUN = Tableau(order=2, c=(0.0, 1.0), a=((), (1.0,)), b=(1 / 2, 1 / 2))

RK4 = Tableau(
    order=4,
    c=(0.0, 1 / 2, 1 / 2, 1.0),
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)

# Dormand and Prince 1980, A family of embedded Runge-Kutta formulae, Journal of
# Computational and Applied Mathematics 6(1), table 2: RK5(4)7M.
_DOPRI5_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_DOPRI5_B_HAT = (
    5179 / 57600,
    0.0,
    7571 / 16695,
    393 / 640,
    -92097 / 339200,
    187 / 2100,
    1 / 40,
)
DOPRI5 = Tableau(
    order=5,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _DOPRI5_B,
    ),
    b=(*_DOPRI5_B, 0.0),
    e=tuple(
        b - b_hat for b, b_hat in zip((*_DOPRI5_B, 0.0), _DOPRI5_B_HAT, strict=True)
    ),
    first_same_as_last=True,
)

# Tsitouras 2011, Runge-Kutta pairs of order 5(4) satisfying only the first column
# simplifying assumption, Computers and Mathematics with Applications 62(2), table 1.
_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
)
TSIT5 = Tableau(
    order=5,
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (
            5.325864828439257,
            -11.748883564062828,
            7.4955393428898365,
            -0.09249506636175525,
        ),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ),
        _TSIT5_B,
    ),
    b=(*_TSIT5_B, 0.0),
    e=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        0.015151515151515152,
    ),
    first_same_as_last=True,
)

FIXED_TABLEAUS = {"euler": EULER, "midpoint": MIDPOINT, "heun": HEUN, "rk4": RK4}
ADAPTIVE_TABLEAUS = {"dopri5": DOPRI5, "tsit5": TSIT5}
