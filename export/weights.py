"""Checkpoint file in, plain state dict out; and the state dict into a network, or a reason why not.

Nothing is unpickled but tensors: PyTorch files are read with `weights_only=True`, safetensors hold
no code at all. The format is told by the first bytes, not by the file's name.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from export.refusal import Refusal

WRAPPERS = ("state_dict", "model", "averaged")  # the last one is ours: export/train.py's checkpoints
DEEPEST = 3  # wrappers within wrappers
PREFIX = "module."  # left behind by nn.DataParallel


class UnusableWeights(Refusal):
    """The file can't be read, or doesn't hold the weights of this network; one line says why."""


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth`, `.pt` or `.safetensors` file by name, unwrapped, float32 where they are floats.

    Raises:
        UnusableWeights: not there, not readable, more than tensors in it, no tensors in it, values that aren't finite.
    """
    state = _unwrap(_load(file), file)
    strangers = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strangers or not state:
        found = f"{strangers[0]!r} holds {type(state[strangers[0]]).__name__}" if strangers else "holds no tensors"
        raise UnusableWeights(f"{file}: {found}; expected a state dict: names and their tensors")
    # Only when all names have it: a network may really have a part that is called "module".
    if all(name.startswith(PREFIX) for name in state):
        state = {name.removeprefix(PREFIX): value for name, value in state.items()}
    tensors = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UnusableWeights(
                f"{file}: {name!r} holds values that are infinite or not numbers; expected finite ones"
            )
    return tensors


def load(network: nn.Module, state: Mapping[str, Tensor], file: Path, classes: int) -> None:
    """Put the tensors into the network, all of them and nothing else.

    Args:
        network: changed in place; its last parameters have `classes` rows.
        file: where the tensors came from, for the message.
        classes: number of labels that the network was built for.
    Raises:
        UnusableWeights: names the first missing, unexpected or differently shaped tensor.
    """
    wanted = network.state_dict()
    # Counts batches while training, decides nothing afterwards; older files lack it.
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in wanted]
    if missing or unexpected:
        found = f"unexpected {_some(unexpected)}" if unexpected else f"no {_some(missing)}"
        expected = (
            f"expected {_some(missing)}"
            if unexpected and missing
            else f"expected the {len(wanted)} of this architecture"
        )
        raise UnusableWeights(f"{file}: {found}; {expected}")
    last = list(network.named_parameters())[-1][0]
    for name, value in state.items():
        mine, theirs = tuple(wanted[name].shape), tuple(value.shape)
        if mine != theirs:
            if name.rpartition(".")[0] == last.rpartition(".")[0] and mine[1:] == theirs[1:]:
                raise UnusableWeights(
                    f"{file}: {name!r} has {theirs[0]} classes; the labels file has {classes}: expected as many"
                )
            raise UnusableWeights(f"{file}: {name!r} is {_shape(theirs)}; expected {_shape(mine)}")
    network.load_state_dict(dict(state), strict=False)


def digest(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _load(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise UnusableWeights(
            f"{file} can't be read ({error.strerror}); expected a .pth, .pt or .safetensors file"
        ) from error
    try:
        if head[8:9] == b"{":  # eight bytes of length, then JSON: safetensors
            return safetensors.torch.load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols; what matters is refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # both libraries raise whatever the bytes provoke
        pickled = head[:1] == b"\x80" or head[:2] == b"PK"  # PyTorch's files: pickles, alone or in a zip
        objects = pickled and "Unsupported" in str(error)
        reason = "holds Python objects, which are never loaded" if objects else "is no readable checkpoint"
        raise UnusableWeights(
            f"{file} {reason}; expected a state dict as torch.save or safetensors write it"
        ) from error


def _unwrap(content: Any, file: Path) -> dict[str, Any]:
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise UnusableWeights(
            f"{file}: holds {type(content).__name__}; expected a state dict, or one under {_some(list(WRAPPERS))}"
        )
    return {str(name): value for name, value in content.items()}


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"
