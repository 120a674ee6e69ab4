"""Data sets on disk, in the layouts that people have."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import data, listing

CLASSES = {"n01443537": "goldfish, Carassius auratus", "n02123159": "tiger cat", "n07920052": "espresso"}


def picture(value: int, side: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (value, 255 - value, value // 2)).save(buffer, "JPEG")
    return buffer.getvalue()


def files(train: int = 8, validation: int = 2) -> dict[str, bytes]:
    """A data set in Tiny ImageNet's official layout: path → content."""
    tree = {
        "wnids.txt": "".join(f"{wnid}\n" for wnid in CLASSES).encode(),
        "words.txt": "".join(f"{wnid}\t{words}\n" for wnid, words in CLASSES.items()).encode(),
    }
    annotations = ""
    for row, wnid in enumerate(CLASSES):
        tree |= {f"train/{wnid}/images/{wnid}_{n}.JPEG": picture(20 * row + n) for n in range(train)}
        tree[f"train/{wnid}/{wnid}_boxes.txt"] = b"x\t0\t0\t62\t62\n"
        for n in range(validation):
            tree[f"val/images/val_{row}{n}.JPEG"] = picture(20 * row + n)
            annotations += f"val_{row}{n}.JPEG\t{wnid}\t0\t0\t62\t62\n"
    return tree | {"val/val_annotations.txt": annotations.encode()}


def lay(folder: Path, tree: dict[str, bytes]) -> Path:
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_tiny_imagenet_is_read_in_the_order_of_its_wnids(tmp_path):
    """The network's outputs are numbered by wnids.txt; any other order mixes up every label."""
    pictures = data.load(lay(tmp_path / "set", files()), tmp_path / "cache", 64)
    assert pictures.listed.labels == [("n01443537", "goldfish"), ("n02123159", "tiger cat"), ("n07920052", "espresso")]
    assert pictures.train.pixels.shape == (24, 64, 64, 3)
    assert np.bincount(pictures.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(pictures.validation.labels).tolist() == [2, 2, 2]
    expected = np.asarray(Image.open(io.BytesIO(picture(20))))
    first = pictures.train.names.index("train/n02123159/images/n02123159_0.JPEG")
    np.testing.assert_array_equal(pictures.train.pixels[first], expected)


def test_the_zip_gives_what_the_folder_gives(tmp_path):
    """The official download is a zip with a folder inside; both must name the same kept-back pictures."""
    tree = files()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, content in tree.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    zipped = data.load(tmp_path / "set.zip", tmp_path / "cache1", 64)
    folder = data.load(lay(tmp_path / "set", tree), tmp_path / "cache2", 64)
    assert zipped.listed.digest == folder.listed.digest
    np.testing.assert_array_equal(zipped.train.pixels, folder.train.pixels)
    np.testing.assert_array_equal(zipped.listed.kept_back(), folder.listed.kept_back())


def test_kept_back_pictures_are_the_same_number_a_class_and_stay_the_same(tmp_path):
    """A choice made on pictures that were trained on is no choice."""
    pictures = data.load(lay(tmp_path / "set", files(train=12)), tmp_path / "cache", 64)
    kept = pictures.listed.kept_back()
    assert np.bincount(pictures.train.labels[kept]).tolist() == [3, 3, 3]
    more = data.load(lay(tmp_path / "more", files(train=12) | {"val/readme.txt": b"new"}), tmp_path / "cache2", 64)
    np.testing.assert_array_equal(more.listed.kept_back(), kept)


def test_a_folder_a_class_is_read_with_its_validation_part(tmp_path):
    """Everybody's own pictures come this way."""
    tree = {f"train/{name}/{n}.png": picture(n) for name in ("cat", "dog") for n in range(4)}
    tree |= {f"val/{name}/{n}.png": picture(n, side=90) for name in ("cat", "dog") for n in range(2)}
    pictures = data.load(lay(tmp_path / "set", tree), tmp_path / "cache", 64)
    assert [label.label for label in pictures.listed.labels] == ["cat", "dog"]
    assert (len(pictures.train), len(pictures.validation)) == (8, 4)
    assert pictures.validation.pixels.shape == (4, 64, 64, 3)


def test_the_second_run_maps_what_the_first_one_decoded(tmp_path, monkeypatch):
    """Decoding 110,000 pictures takes minutes on a small machine."""
    source = lay(tmp_path / "set", files())
    first = data.load(source, tmp_path / "cache", 64)
    monkeypatch.setattr(data, "_square", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(data.load(source, tmp_path / "cache", 64).train.pixels, first.train.pixels)


def test_new_pictures_under_old_names_are_decoded_anew(tmp_path):
    """A cache that outlives its pictures would be trained on in silence."""
    source = lay(tmp_path / "set", files())
    data.load(source, tmp_path / "cache", 64)
    name = "train/n02123159/images/n02123159_0.JPEG"
    lay(source, {name: picture(200, side=80)})
    pictures = data.load(source, tmp_path / "cache", 64)
    assert pictures.train.pixels[pictures.train.names.index(name)].mean(axis=(0, 1))[0] > 150


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        pytest.param({"a.txt": b""}, "0 pictures in 0 class folders", id="no pictures"),
        pytest.param({"cat/1.png": picture(1)}, "1 class folders", id="one class"),
        pytest.param({"wnids.txt": b"n1\n"}, "words.txt is missing", id="half of Tiny ImageNet"),
        pytest.param({"a/1.png": b"no picture", "b/1.png": picture(1)}, "a/1.png can't be decoded", id="broken picture"),
        pytest.param(files() | {"val/images/val_00.JPEG": b""}, "val_00.JPEG can't be decoded", id="empty picture"),
    ],
)
def test_unusable_data_is_named_and_leaves_nothing_behind(tmp_path, tree, message):
    """A cache that was half written would be trained on."""
    with pytest.raises(listing.UnusableData, match=message):
        data.load(lay(tmp_path / "set", tree), tmp_path / "cache", 64)
    assert not list((tmp_path / "cache").rglob("*.part"))
