"""Checkpoints as people have them, and the ways in which they are wrong."""

from __future__ import annotations

import pickle

import pytest
import safetensors.torch
import torch

from export import weights
from export.weights import UnusableWeights


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="plain"),
        pytest.param(lambda state: {"state_dict": state, "epoch": 90}, id="state_dict"),
        pytest.param(lambda state: {"model": state, "optimizer": {"state": {}}}, id="model"),
        pytest.param(lambda state: {"model": {"state_dict": state}}, id="wrapped twice"),
        pytest.param(lambda state: {f"module.{name}": value for name, value in state.items()}, id="module. prefix"),
        pytest.param(
            lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}}, id="both"
        ),
        pytest.param(
            lambda state: {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
            id="half",
        ),
        pytest.param(
            lambda state: {name: value for name, value in state.items() if "batches" not in name},
            id="no batch counters",
        ),
    ],
)
def test_usual_wrappers_are_understood(tmp_path, network, wrap):
    """Training scripts save their state dicts in a dozen ways; nobody should have to unwrap them by hand."""
    file = tmp_path / "w.pth"
    torch.save(wrap(network.state_dict()), file)
    loaded = type(network)()
    weights.load(loaded, weights.read(file), file, 5)
    for name, value in network.state_dict().items():
        if "batches" not in name:
            assert torch.allclose(loaded.state_dict()[name], value, atol=1e-2)


def test_safetensors_are_told_by_their_bytes(tmp_path, network):
    """A renamed file is read all the same."""
    file = tmp_path / "w.bin"
    safetensors.torch.save_file(network.state_dict(), file)
    assert weights.read(file).keys() == network.state_dict().keys()


class Payload:
    """Runs when unpickled the naive way."""

    def __reduce__(self):
        return print, ("this must never be printed",)


def _saved(content):
    return lambda file, state: torch.save(content(state), file)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(lambda file, state: None, "can't be read .No such file", id="not there"),
        pytest.param(lambda file, state: file.mkdir(), "can't be read .Is a directory", id="a folder"),
        pytest.param(lambda file, state: file.write_bytes(b""), "no readable checkpoint", id="empty"),
        pytest.param(
            lambda file, state: file.write_bytes(b"%PDF-1.7" * 100), "no readable checkpoint", id="something else"
        ),
        pytest.param(
            lambda file, state: file.write_bytes(b"\xff" * 8 + b"{}"), "no readable checkpoint", id="broken safetensors"
        ),
        pytest.param(
            lambda file, state: file.write_bytes(pickle.dumps(Payload())), "Python objects", id="code in a pickle"
        ),
        pytest.param(_saved(lambda state: Payload()), "Python objects", id="code in a checkpoint"),
        pytest.param(_saved(lambda state: list(state.values())), "holds list; expected a state dict", id="a list"),
        pytest.param(_saved(lambda state: {}), "no tensors", id="no tensors"),
        pytest.param(_saved(lambda state: {"epoch": 3}), "'epoch' holds int", id="numbers"),
        pytest.param(
            _saved(lambda state: state | {"features.0.weight": state["features.0.weight"] / 0}),
            "infinite",
            id="infinite",
        ),
    ],
)
def test_unusable_files_are_refused_in_one_line(tmp_path, network, capsys, write, message):
    """What is wrong with a file is said once, without a traceback, and nothing in it is ever run."""
    file = tmp_path / "w.pth"
    write(file, network.state_dict())
    with pytest.raises(UnusableWeights, match=message) as caught:
        weights.read(file)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    assert capsys.readouterr().out == ""


def _without(*names):
    return lambda state: {name: value for name, value in state.items() if name not in names}


def _renamed(old, new):
    return lambda state: {new if name == old else name: value for name, value in state.items()}


def _reshaped(name, *shape):
    return lambda state: state | {name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(_without("features.0.weight"), "no 'features.0.weight'; expected the 14", id="missing"),
        pytest.param(_reshaped("extra", 1), "unexpected 'extra'; expected the 14", id="one too many"),
        pytest.param(
            _renamed("features.0.weight", "conv1.weight"),
            "unexpected 'conv1.weight'; expected 'features.0.weight'",
            id="renamed",
        ),
        pytest.param(
            _reshaped("features.0.weight", 8, 3, 5, 5), "is 8 × 3 × 5 × 5; expected 8 × 3 × 3 × 3", id="other shape"
        ),
        pytest.param(
            _reshaped("classifier.4.weight", 7, 12),
            "has 7 classes; the labels file has 5",
            id="other number of classes",
        ),
    ],
)
def test_weights_of_another_network_name_the_first_difference(tmp_path, network, change, message):
    """The reader has to find the wrong file; the tensor that doesn't fit tells which one it is."""
    with pytest.raises(UnusableWeights, match=message):
        weights.load(type(network)(), change(network.state_dict()), tmp_path / "w.pth", 5)
