"""Weights to begin training with: a checkpoint, or a model that was published before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export import weights
from export.folding import fold, normalised
from export.refusal import Refusal


def begin_with(network: nn.Module, file: Path, classes: int, pixels: Tensor) -> None:
    """Put the weights of a file into a network that is about to be trained; in place.

    In a published model normalisation is folded into the layers before it. It is put back with the statistics of
    `pixels`, so that the network answers as the model did, and can be trained on.

    Args:
        network: of the architecture that the file was made with.
        file: a state dict (.pth, .pt, .safetensors) or a model.onnx that `convert` made.
        pixels: (N, 3, side, side) float32, normalised; some hundred training pictures.
    Raises:
        Refusal: unreadable, or of another network; one line says which tensor.
    """
    if file.suffix != ".onnx":
        weights.load(network, weights.read(file), file, classes)
        return
    try:
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}
    except Exception as error:  # onnx and protobuf raise classes of their own
        raise Refusal(f"{file} can't be read as ONNX ({str(error).splitlines()[0]}); expected a model of `convert`") from error
    was_training = network.training
    folded = fold(network.eval())
    state = {name: torch.from_numpy(stored[name].copy()) for name in folded.state_dict() if name in stored}
    weights.load(folded, state, file, classes)
    _unfold(network, folded, pixels)
    network.train(was_training)


@torch.no_grad()
def _unfold(network: nn.Module, folded: nn.Module, pixels: Tensor) -> None:
    """Copy all that folding left alone, then let each normalisation that it took away settle on `pixels`."""
    stored, kept = folded.state_dict(), network.state_dict()
    for name, value in kept.items():
        if name in stored and stored[name].shape == value.shape:
            value.copy_(stored[name])
    hooks = []
    for before, after in normalised(network):
        whole = folded.get_submodule(before)
        assert isinstance(whole.bias, Tensor)
        hooks.append(network.get_submodule(after).register_forward_hook(_settle(whole.bias)))
    network(pixels)
    for hook in hooks:
        hook.remove()


def _settle(bias: Tensor) -> Callable[..., Tensor]:
    """A hook that makes a normalisation hand on what comes in plus `bias`, given the statistics of what comes in."""

    def hook(norm: nn.BatchNorm2d | nn.BatchNorm1d, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        (values,) = inputs
        dims = [0, *range(2, values.ndim)]
        mean, variance = values.mean(dims), values.var(dims, correction=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean + bias)
        shape = [1, -1, *[1] * (values.ndim - 2)]
        return values + bias.view(shape)

    return hook
