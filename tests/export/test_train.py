"""Training: it learns, it resumes, it says what it did."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from export import data, precision, train, weights
from export.__main__ import main
from export.architectures import find
from export.initial import begin_with
from export.refusal import Refusal

HYPER = train.Hyperparameters("alexnet64", ((32, 8), (64, 8)), batch=16, rate=0.02)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """Two classes that differ in their stripes: 40 drawn training pictures and 10 for validation each."""
    folder = tmp_path_factory.mktemp("shapes")
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 10)):
        for name, axis in (("rows", 0), ("columns", 1)):
            for n in range(count):
                stripes = (np.arange(64) + random.integers(16)) // 8 % 2 * 160 + 40
                bright = np.broadcast_to(np.expand_dims(stripes, 1 - axis), (64, 64))
                pixels = bright[..., None] + random.integers(0, 40, (64, 64, 3))
                file = folder / part / name / f"{n}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    return folder


@pytest.fixture(autouse=True)
def _single_precision(monkeypatch):
    """Which precision is faster may differ from one timing to the next; the results below must not."""
    monkeypatch.setattr(precision, "bfloat16_pays", lambda *_: False)


def test_training_learns_and_records_where_its_result_comes_from(shapes, tmp_path):
    """Provenance that is missing something can't be repeated."""
    train.run(shapes, tmp_path / "run", HYPER, tmp_path / "cache", "python -m export train")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["validation"]["pictures"] == 20
    assert record["validation"]["top1"] >= 0.9
    assert record["hyperparameters"]["seed"] == 1
    assert record["kept_back_pictures"] == 20
    assert record["training_pictures"] == 60
    assert [row["pixels"] for row in record["epochs"]] == [32] * 8 + [64] * 8
    assert (tmp_path / "run" / "epochs.csv").read_text().count("\n") == 17
    with Image.open(tmp_path / "run" / "curve.png") as curve:
        assert curve.size[0] > 500
    labels = json.loads((tmp_path / "run" / "labels.json").read_text())
    assert [label["label"] for label in labels] == ["columns", "rows"]


def test_a_run_cut_off_and_resumed_ends_with_the_same_weights(shapes, tmp_path, monkeypatch):
    """Long runs are cut off; what resuming changes would be nobody's recipe."""
    hyper = train.Hyperparameters("alexnet64", ((32, 2), (64, 1)), batch=16)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train.run(shapes, whole, hyper, tmp_path / "cache", "")
    epoch = train._Trainer.epoch

    def stopped(self, number, progress):
        if number == 1:
            raise KeyboardInterrupt
        epoch(self, number, progress)

    with monkeypatch.context() as patch:
        patch.setattr(train._Trainer, "epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            train.run(shapes, cut, hyper, tmp_path / "cache", "")
    assert not (cut / "weights.pth").exists()
    train.run(shapes, cut, hyper, tmp_path / "cache", "")
    one, two = (torch.load(folder / "weights.pth", weights_only=True) for folder in (whole, cut))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_checkpoint_of_another_run_is_refused(shapes, tmp_path):
    """Going on with other hyperparameters would give a model whose record lies."""
    short = train.Hyperparameters("alexnet64", ((32, 1),), batch=16)
    train.run(shapes, tmp_path / "run", short, tmp_path / "cache", "")
    other = train.Hyperparameters("alexnet64", ((32, 1),), batch=16, rate=0.07)
    with pytest.raises(Refusal, match="choose another --output"):
        train.run(shapes, tmp_path / "run", other, tmp_path / "cache", "")


def test_an_epoch_may_be_cut_short():
    """The largest pictures cost most; a part of an epoch may be enough of them."""
    hyper = train.Hyperparameters("alexnet64", train.parse_schedule("32x2,64x1.25"))
    assert hyper.passes == [(32, 1.0), (32, 1.0), (64, 1.0), (64, 0.25)]


@pytest.mark.parametrize("text", ["", "32", "32x", "x4", "32x0", "32x5;64x3", "axb", "8x1", "32xnan", "32x-1", "32xinf"])
def test_a_schedule_that_makes_no_sense_is_refused(text):
    """The message shows what a schedule looks like."""
    with pytest.raises(Refusal, match="expected PIXELSxEPOCHS"):
        train.parse_schedule(text)


def test_a_damaged_checkpoint_is_named(shapes, tmp_path):
    """torch's own error over it is a bare number."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(Refusal, match=r"checkpoint.pt is no checkpoint that can be read"):
        train.run(shapes, tmp_path / "run", HYPER, tmp_path / "cache", "")


def test_an_unknown_architecture_leaves_nothing_behind(shapes, tmp_path):
    """An empty folder would look like a run."""
    with pytest.raises(Refusal, match="expected one of alexnet"):
        train.run(shapes, tmp_path / "run", train.Hyperparameters("nope", ((32, 1),)), tmp_path / "cache", "")
    assert not (tmp_path / "run").exists()


def test_training_goes_on_from_a_published_model(shapes, tmp_path, monkeypatch):
    """Normalisation was folded away when it was published; put back, the network answers as the model did."""
    pictures = data.load(shapes, tmp_path / "cache", 64)
    train.run(shapes, tmp_path / "run", HYPER, tmp_path / "cache", "")
    done = CliRunner().invoke(main, [
        "convert", "--architecture", "alexnet64", "--weights", str(tmp_path / "run" / "weights.pth"),
        "--labels", str(tmp_path / "run" / "labels.json"), "--output", str(tmp_path / "models" / "stripes" / "1")])  # fmt: skip
    assert done.exit_code == 0, done.output
    first, again = (find("alexnet64").build(2).eval() for _ in range(2))
    weights.load(first, weights.read(tmp_path / "run" / "weights.pth"), tmp_path, 2)
    pixels = torch.from_numpy(pictures.train.pixels[:60].copy()).permute(0, 3, 1, 2).float() / 255
    file = tmp_path / "models" / "stripes" / "1" / "model.onnx"
    begin_with(again, file, 2, pixels)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels), first(pixels), rtol=1e-3, atol=1e-3)
    assert (again.features[1].weight > 0).all()  # the normalisation is there again, not folded
    other = find("alexnet64").build(3)
    with pytest.raises(Refusal, match="classes"):
        begin_with(other, file, 3, pixels)
