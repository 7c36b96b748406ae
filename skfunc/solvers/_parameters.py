"""Which tensors a field reads, for the gradients that recompute it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from skfunc.solvers._runge_kutta import Field


def field_parameters(f: Field, params: Iterable[Tensor] | None) -> tuple[Tensor, ...]:
    """Return ``params``, by default the parameters of ``f`` if it is a module."""
    if params is not None:
        return tuple(params)
    if isinstance(f, nn.Module):
        return tuple(f.parameters())
    return ()


def check_reads(slope: Tensor, params: tuple[Tensor, ...], gradient: str) -> None:
    """Raise if ``slope`` depends on a tensor that is not in ``params``.

    A gradient that recomputes the field can reach only the tensors it was told of:
    for any other, it would silently be zero.
    """
    known = set(map(id, params))
    producers = {p.grad_fn for p in params if p.grad_fn is not None}
    seen = set()
    queue = [slope.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen or node in producers:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            raise ValueError(
                f"gradient={gradient!r} computes f again, but f reads a tensor of "
                f"shape {tuple(leaf.shape)} that requires a gradient and is not among "
                "its parameters. Pass all such tensors in params=, make f a module "
                "that owns them, or use gradient='backprop'."
            )
        queue.extend(edge[0] for edge in node.next_functions)
