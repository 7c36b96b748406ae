"""Networks of layers: chains, residual blocks, and the usual ones by name."""

from __future__ import annotations

from dataclasses import dataclass, field

from skfunc.infinite_width._kernel_block import KernelBlock, Pairs
from skfunc.infinite_width._layers_base import Layer, Shape
from skfunc.infinite_width._layers_elementwise import (
    Abs,
    Cos,
    Elementwise,
    Erf,
    Gelu,
    LeakyRelu,
    Rbf,
    Relu,
    Sigmoid,
    Sin,
)
from skfunc.infinite_width._layers_linear import (
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Identity,
)


@dataclass(frozen=True, init=False)
class Serial(Layer):
    """Layers one after another.

    Parameters
    ----------
    *layers : Layer
        The layers, from the input on; networks are layers too.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> net = L.Serial(*[L.Dense(1.5, 0.05), L.Relu()] * 3, L.Dense())
    >>> net.kernel([[0.0, 1.0], [1.0, 0.0]]).round(3)
    array([[2.861, 0.763],
           [0.763, 2.861]])
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        for layer in layers:
            check_layer(layer)
        object.__setattr__(self, "layers", layers)

    def __repr__(self) -> str:
        return f"Serial({', '.join(map(repr, self.layers))})"

    def output_shape(self, shape: Shape) -> Shape:
        """Return the last layer's (height, width), or () for vectors.

        Parameters
        ----------
        shape : tuple of int
            (height, width) of the input, () for vectors.

        Returns
        -------
        tuple of int
            (height, width) of the output, () for vectors.
        """
        for layer in self.layers:
            shape = layer.output_shape(shape)
        return shape

    def _pairs_below(self, pairs: Pairs) -> Pairs:
        for layer in reversed(self.layers):
            pairs = layer._pairs_below(pairs)
        return pairs

    def _propagate(self, block: KernelBlock, pairs: Pairs) -> KernelBlock:
        wanted = [pairs]
        for layer in reversed(self.layers):
            wanted.append(layer._pairs_below(wanted[-1]))
        wanted.reverse()
        for layer, below, above in zip(self.layers, wanted, wanted[1:], strict=False):
            block = layer._propagate(block.restrict(below), above)
        return block


@dataclass(frozen=True)
class Residual(Layer):
    """The sum of a body and a shortcut around it.

    Parameters
    ----------
    body : Layer
        The layers that the shortcut goes around.
    shortcut : Layer, default=Identity()
        What the input passes on its way around.

    Examples
    --------
    >>> from skfunc.infinite_width import layers as L
    >>> block = L.Residual(L.Serial(L.Relu(), L.Dense()))
    >>> L.Serial(L.Dense(), block, L.Dense()).kernel([[1.0, 1.0]], kind="nngp")
    array([[1.5]])
    """

    body: Layer
    shortcut: Layer = field(default_factory=Identity)

    def __post_init__(self) -> None:
        check_layer(self.body)
        check_layer(self.shortcut)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the (height, width) that body and shortcut agree on.

        Parameters
        ----------
        shape : tuple of int
            (height, width) of the input, () for vectors.

        Returns
        -------
        tuple of int
            (height, width) of the output, () for vectors.
        """
        body, shortcut = (
            branch.output_shape(shape) for branch in (self.body, self.shortcut)
        )
        if body != shortcut:
            raise ValueError(
                f"The branches of {self!r} return images of {body} and {shortcut}, "
                "which cannot be added: give both the same strides and padding."
            )
        return body

    def _pairs_below(self, pairs: Pairs) -> Pairs:
        return max(self.body._pairs_below(pairs), self.shortcut._pairs_below(pairs))

    def _propagate(self, block: KernelBlock, pairs: Pairs) -> KernelBlock:
        around = block.copy().restrict(self.shortcut._pairs_below(pairs))
        block = block.restrict(self.body._pairs_below(pairs))
        block = self.body._propagate(block, pairs)
        return block.add(self.shortcut._propagate(around, pairs))


ACTIVATIONS: dict[str, type[Elementwise]] = {
    "relu": Relu,
    "leaky_relu": LeakyRelu,
    "abs": Abs,
    "erf": Erf,
    "gelu": Gelu,
    "sin": Sin,
    "cos": Cos,
    "rbf": Rbf,
    "sigmoid": Sigmoid,
}


def preset(
    name: str = "mlp",
    depth: int = 3,
    activation: str | Layer = "relu",
    weight_std: float = 1.5,
    bias_std: float = 0.05,
    image_shape: tuple[int, int, int] | None = None,
) -> Serial:
    """Return a network by its name.

    Parameters
    ----------
    name : {"mlp", "conv", "wide_resnet"}, default="mlp"
        "mlp" has fully connected layers (images are flattened first), "conv"
        3 x 3 convolutions and Flatten, "wide_resnet" three groups of residual blocks
        with strides 1, 2 and 2, then GlobalAvgPool; all end in one Dense.
    depth : int, default=3
        Hidden layers; for "wide_resnet", blocks in each group.
    activation : str or Layer, default="relu"
        "relu", "leaky_relu", "abs", "erf", "gelu", "sin", "cos", "rbf", "sigmoid", or
        a layer.
    weight_std : float, default=1.5
        Standard deviation of weights in every layer.
    bias_std : float, default=0.05
        Standard deviation of biases in every layer.
    image_shape : tuple of int (channels, height, width), default=None
        The images' shape, which "conv" and "wide_resnet" need.

    Returns
    -------
    Serial
        The network.

    References
    ----------
    S. Zagoruyko and N. Komodakis, "Wide residual networks", 2016, arXiv 1605.07146.

    Examples
    --------
    >>> from skfunc.infinite_width.layers import preset
    >>> preset("mlp", depth=1, activation="erf").kernel([[1.0, 2.0]]).shape
    (1, 1)
    """
    if name not in ("mlp", "conv", "wide_resnet"):
        raise ValueError(
            f"The network {name!r} is unknown; choose 'mlp', 'conv' or 'wide_resnet', "
            "or build one from skfunc.infinite_width.layers."
        )
    if depth < (1 if name == "wide_resnet" else 0):
        raise ValueError(f"depth={depth!r} is too small for {name!r}.")
    if name != "mlp" and image_shape is None:
        raise ValueError(f"{name!r} needs image_shape=(channels, height, width).")
    unit = activation_layer(activation)
    head = Dense(weight_std, bias_std)
    if name == "wide_resnet":
        return Serial(
            Conv(weight_std, bias_std),
            *_wide_groups(depth, unit, weight_std, bias_std),
            GlobalAvgPool(),
            head,
        )
    if name == "conv":
        hidden = [Conv(weight_std, bias_std), unit] * depth
        return Serial(*hidden, Flatten(), head)
    hidden = [Dense(weight_std, bias_std), unit] * depth
    first = [] if image_shape is None else [Flatten()]
    return Serial(*first, *hidden, head)


def _wide_groups(
    depth: int, unit: Layer, weight_std: float, bias_std: float
) -> list[Layer]:
    """Return the residual blocks; a group's first has a convolution as shortcut."""
    blocks: list[Layer] = []
    for stride in (1, 2, 2):
        for position in range(depth):
            strides = (stride, stride) if position == 0 else (1, 1)
            strided = Conv(weight_std, bias_std, strides=strides)
            body = Serial(unit, strided, unit, Conv(weight_std, bias_std))
            blocks.append(Residual(body, strided if position == 0 else Identity()))
    return blocks


def chain(net: Layer) -> tuple[Layer, ...]:
    """Return the layers of a network, those of chains within chains in line."""
    if isinstance(net, Serial):
        return tuple(part for layer in net.layers for part in chain(layer))
    return (net,)


def activation_layer(activation: str | Layer) -> Layer:
    """Return the layer that an activation's name stands for."""
    if isinstance(activation, Layer):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"activation={activation!r} is unknown; choose one of "
            f"{sorted(ACTIVATIONS)} or a layer of skfunc.infinite_width.layers."
        )
    return ACTIVATIONS[activation]()


def check_layer(layer: object) -> None:
    """Raise unless the object is a layer."""
    if not isinstance(layer, Layer):
        hint = ""
        if isinstance(layer, type) and issubclass(layer, Layer):
            hint = f"; write {layer.__name__}() to make one"
        raise TypeError(f"{layer!r} is not a layer{hint}.")
