"""A trained network in the form that is exported: normalisation folded into the layers before it, pooling settled.

Knows networks and their layers; knows nothing of ONNX.
"""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise

import torch
from torch import fx, nn
from torch.nn.utils import fusion

NORMALISATION = (nn.BatchNorm2d, nn.BatchNorm1d)


def fold(network: nn.Module) -> nn.Module:
    """A copy with batch normalisation folded into the layer before it, in double precision; layers keep their names."""
    folded = copy.deepcopy(network).double().eval()
    for before, after in normalised(folded):
        first, second = folded.get_submodule(before), folded.get_submodule(after)
        fused = fusion.fuse_conv_bn_eval if isinstance(first, nn.Conv2d) else fusion.fuse_linear_bn_eval
        folded.set_submodule(before, fused(first, second))  # type: ignore[arg-type, type-var]
        folded.set_submodule(after, nn.Identity())
    return folded.float().eval()


def normalised(network: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions and fully connected layers, each with the normalisation that takes what it gives, and alone does."""
    found = []
    for before, after in _neighbours(network):
        first, second = network.get_submodule(before), network.get_submodule(after)
        # A layer that makes its weight out of something else, or has a forward of its own, may use it in another way.
        plain = type(first).forward in (nn.Conv2d.forward, nn.Linear.forward) and "weight" in first._parameters
        fits = (isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)) or (
            isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d)
        )
        if plain and fits and second.track_running_stats:
            found.append((before, after))
    return found


def _neighbours(network: nn.Module) -> list[tuple[str, str]]:
    """Names of layers of which the second, and nothing else, takes what the first gives; each is called once."""
    try:
        nodes = list(_Layers().trace(network).nodes)
    except Exception:  # what can't be traced stays as it is: right, and only a little slower
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    return [
        (str(source.target), str(node.target))
        for node in nodes
        if node.op == "call_module" and calls[node.target] == 1 and len(node.all_input_nodes) == 1
        for source in node.all_input_nodes
        if source.op == "call_module" and calls[source.target] == 1 and len(source.users) == 1 and source.target not in read
    ]


class _Layers(fx.Tracer):
    """Looks into whatever is made of layers, and not into layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(m.children()) or super().is_leaf_module(m, module_qualified_name)


def settle_pooling(network: nn.Module, example: torch.Tensor) -> None:
    """Adaptive pooling becomes plain pooling with the windows that it has for pictures of this size; in place.

    ONNX knows none that adapts: left alone, 5 × 5 → 4 × 4 could not be exported. Windows that differ in size stay as they are.
    """
    adaptive = {name: module for name, module in network.named_modules() if isinstance(module, nn.AdaptiveAvgPool2d)}
    sizes: dict[str, list[tuple[int, int]]] = {name: [] for name in adaptive}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: sizes[name].append(tuple(given[0].shape[2:])))
        for name, module in adaptive.items()
    ]
    network(example)
    for hook in hooks:
        hook.remove()
    for name, module in adaptive.items():
        asked = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
        if len(set(sizes[name])) != 1 or None in asked or asked == (1, 1):
            continue
        windows = [_window(side, int(out or 0)) for side, out in zip(sizes[name][0], asked, strict=True)]
        if None not in windows:
            kernel, stride = zip(*(window for window in windows if window), strict=True)
            network.set_submodule(name, nn.AvgPool2d(kernel, stride))


def _window(side: int, out: int) -> tuple[int, int] | None:
    """Length and stride of the windows that adaptive pooling has, where all are alike; see torch.nn.AdaptiveAvgPool2d."""
    starts = [place * side // out for place in range(out)]
    ends = [-(-(place + 1) * side // out) for place in range(out)]
    lengths = {end - start for start, end in zip(starts, ends, strict=True)}
    strides = {after - before for before, after in pairwise(starts)} or {1}
    return (lengths.pop(), strides.pop()) if len(lengths) == len(strides) == 1 else None
