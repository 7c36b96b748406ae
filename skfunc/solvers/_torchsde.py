"""The methods of torchsde, on the same Brownian path and behind the same function."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torchsde
from torch import Tensor, nn
from torchsde import BaseBrownian

from skfunc.solvers._brownian import BrownianPath, mix
from skfunc.solvers._sde_steps import Parts, SDEField

PREFIX = "torchsde:"

TORCHSDE_ITO = ("euler", "milstein", "srk")
TORCHSDE_STRATONOVICH = (
    "euler_heun",
    "heun",
    "midpoint",
    "reversible_heun",
    "log_ode",
)
TORCHSDE_METHODS = tuple(
    PREFIX + name for name in (*TORCHSDE_ITO, *TORCHSDE_STRATONOVICH)
)

# These need integrals of the path besides its increments; torchsde draws both.
_LEVY_AREA = {"srk": "space-time", "log_ode": "foster"}


class _FlatPath(BaseBrownian):
    """Our path, as torchsde asks for it: one row of all channels."""

    levy_area_approximation = "none"
    # Abstract properties there, plain attributes here.
    shape = (1, 0)
    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, path: BrownianPath, y: Tensor, n_channels: int) -> None:
        self.path = path
        self.shape = (1, n_channels)
        self.dtype = y.dtype
        self.device = y.device

    def __call__(
        self,
        ta: float,
        tb: float | None = None,
        return_U: bool = False,
        return_A: bool = False,
    ) -> Tensor:
        assert tb is not None and not return_U and not return_A
        noise = self.path.increment(float(ta), float(tb))
        row = noise.to(self.device, self.dtype).reshape(1, -1)
        # Only the first part of the state is driven.
        return nn.functional.pad(row, (0, self.shape[1] - row.shape[1]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape})"


class _FlatSDE:
    """The field on the parts of the state, flattened into one row."""

    noise_type = "diagonal"

    def __init__(self, field: SDEField, y0: Parts, sde_type: str) -> None:
        self.field = field
        self.sde_type = sde_type
        self.shapes = [part.shape for part in y0]
        self.sizes = [part.numel() for part in y0]

    def flat(self, parts: Parts) -> Tensor:
        return torch.cat([part.reshape(-1) for part in parts]).unsqueeze(0)

    def parts(self, row: Tensor) -> Parts:
        pieces = row.reshape(-1).split(self.sizes)
        return tuple(
            piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)
        )

    def f(self, t: Tensor, row: Tensor) -> Tensor:
        return self.flat(self.field(float(t), self.parts(row)).drift)

    def g(self, t: Tensor, row: Tensor) -> Tensor:
        g = self.field.g
        y = self.parts(row)
        value = g(t.to(row.dtype), y) if callable(g) else g
        first = torch.as_tensor(value).to(row).expand(self.shapes[0]).reshape(1, -1)
        return nn.functional.pad(first, (0, row.shape[1] - first.shape[1]))


def solve_by_torchsde(
    field: SDEField,
    method: str,
    y0: Parts,
    times: list[float],
    n_steps: int,
    path: BrownianPath,
    adjoint_params: tuple[Tensor, ...] | None,
) -> list[Parts]:
    """Return the states at ``times``; by ``sdeint_adjoint`` if given parameters."""
    name = method.removeprefix(PREFIX)
    sde = _FlatSDE(field, y0, "ito" if name in TORCHSDE_ITO else "stratonovich")
    row = sde.flat(y0)
    n = row.shape[1]
    function: Callable[..., tuple[Tensor, tuple[Tensor, ...]]] = torchsde.sdeint
    more: dict[str, object] = {}
    if adjoint_params is not None:
        function = torchsde.sdeint_adjoint
        wanted = tuple(p for p in adjoint_params if p.requires_grad)
        more["adjoint_params"] = wanted
        if name == "reversible_heun":
            more["adjoint_method"] = "adjoint_reversible_heun"
    states, carried = [y0], None
    for i, (t0, t1) in enumerate(zip(times, times[1:], strict=False)):
        if name in _LEVY_AREA:
            noise: BaseBrownian = torchsde.BrownianInterval(
                t0=t0,
                t1=t1,
                size=(1, n),
                dtype=row.dtype,
                device=row.device,
                entropy=mix(path.entropy, i) >> 1,
                levy_area_approximation=_LEVY_AREA[name],
            )
        else:
            noise = _FlatPath(path, row, n)
        t = torch.tensor([t0, t1], dtype=torch.float64, device=row.device)
        # Rounding of the sums of steps must not leave a sliver for one step more.
        spare = 4 * n_steps * torch.finfo(t.dtype).eps * max(abs(t0), abs(t1))
        dt = (t1 - t0 + spare) / n_steps
        # The reversible method's copy of the state goes on from time to time.
        rows, carried = function(
            sde,
            row,
            t,
            bm=noise,
            method=name,
            dt=dt,
            extra=True,
            extra_solver_state=carried,
            **more,
        )
        row = rows[-1]
        states.append(sde.parts(row))
    return states
