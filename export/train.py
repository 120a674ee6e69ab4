"""Train a network from a folder of labelled pictures; stop and resume at any epoch."""

from __future__ import annotations

import copy
import json
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export import calibration, data, precision, report
from export.architectures import Architecture, find
from export.augment import compressed, cutmix, random_resized_crop
from export.folding import normalised
from export.initial import begin_with
from export.muon import Muon
from export.refusal import Refusal
from service.planning import usable_cpus

SMALLEST = 16  # px: less is nothing after four halvings


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that decides what a run gives, besides the pictures.

    Attributes:
        schedule: (pixels, epochs) in order, as `32x5,48x5,64x2.5`.
        rate: highest learning rate; reached after `warm_up` (share of all steps), then linear down to 0; Muon's for
            weights that normalisation follows, that of SGD for all others.
        area: least share of the picture that a random crop covers.
        compressed: share of the pictures that go through JPEG first.
        mixed: share of the batches that CutMix mixes.
        initial: SHA-256 of the file that training began with; empty for chance.
        average: decay of the moving average of the weights, a step.
    """

    architecture: str
    schedule: tuple[tuple[int, float], ...]
    batch: int = 256
    rate: float = 0.1
    warm_up: float = 0.15
    area: float = 0.4
    compressed: float = 0.3
    mixed: float = 0.5
    initial: str = ""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    average: float = 0.998
    seed: int = 1

    @property
    def passes(self) -> list[tuple[int, float]]:
        """(pixels, share of the training pictures) of each epoch; only the last of a size may be less than whole."""
        found = []
        for size, epochs in self.schedule:
            found += [(size, 1.0)] * int(epochs) + [(size, epochs % 1)] * (epochs % 1 > 0)
        return found


def parse_schedule(text: str) -> tuple[tuple[int, float], ...]:
    """`32x5,64x2.5` → ((32, 5.0), (64, 2.5)): pixels and epochs.

    Raises:
        Refusal: says what was found and what is expected.
    """
    try:
        parts = tuple((int(size), float(epochs)) for size, epochs in (part.split("x") for part in text.split(",")))
    except ValueError:
        parts = ()
    if not parts or min(size for size, _ in parts) < SMALLEST or not all(0 < epochs < 10_000 for _, epochs in parts):
        raise Refusal(
            f'schedule is "{text}"; expected PIXELSxEPOCHS, {SMALLEST} pixels at least, several with commas: 32x5,48x5,64x2.5'
        )
    return parts


def run(
    source: Path, output: Path, hyper: Hyperparameters, cache: Path, command: str, initial: Path | None = None
) -> None:
    """Train to the end of the schedule, going on from `output/checkpoint.pt` where there is one.

    Leaves in `output`: `weights.pth` (averaged weights), `labels.json`, `run.json` (provenance),
    `epochs.csv`, `curve.png`.

    Args:
        initial: weights or a model to begin with, instead of chance.
    Raises:
        listing.UnusableData: the pictures can't be read.
        Refusal: the checkpoint there belongs to other hyperparameters or other pictures.
    """
    architecture = find(hyper.architecture)
    output.mkdir(parents=True, exist_ok=True)
    pictures = data.load(source, cache, architecture.side)
    resumed = (output / "checkpoint.pt").exists()  # its weights take the place of the initial ones
    trainer = _Trainer(hyper, architecture, pictures, output, None if resumed else initial)
    _write(output / "labels.json", json.dumps([label._asdict() for label in pictures.listed.labels], indent=0).encode())
    trainer.resume()
    with report.progress() as progress:
        for epoch in range(trainer.done, len(hyper.passes)):
            trainer.epoch(epoch, progress)
    trainer.finish(command)


class _Trainer:
    def __init__(
        self,
        hyper: Hyperparameters,
        architecture: Architecture,
        pictures: data.Pictures,
        output: Path,
        initial: Path | None,
    ) -> None:
        torch.manual_seed(hyper.seed)
        self.hyper, self.pictures, self.output = hyper, pictures, output
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = architecture.build(len(pictures.listed.labels)).to(self.device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = torch.tensor(architecture.mean, device=self.device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(architecture.std, device=self.device).view(1, 3, 1, 1) * 255
        kept = pictures.listed.kept_back()
        (self.train,), (self.kept,) = np.nonzero(~kept), np.nonzero(kept)
        whole = len(self.train) // hyper.batch
        self.lengths = [max(1, round(share * whole)) for _, share in hyper.passes]  # steps of each epoch
        if whole == 0:
            raise Refusal(f"{len(self.train)} training pictures; a batch takes {hyper.batch}: choose a smaller --batch")
        if initial is not None:
            some = np.sort(self.train[:: max(1, len(self.train) // 1000)])
            begin_with(self.network, initial, len(pictures.listed.labels), self._input(pictures.train.pixels[some]))
        self.averaged = copy.deepcopy(self.network).eval()
        self.optimizers = _optimizers(self.network, hyper)
        self.bf16 = precision.bfloat16_pays(self.network, architecture.side, self.device)
        self.pool = ThreadPoolExecutor(usable_cpus())
        self.done = 0
        self.rows: list[dict[str, float]] = []

    def resume(self) -> None:
        file = self.output / "checkpoint.pt"
        if not file.exists():
            return
        try:
            state = torch.load(file, map_location=self.device, weights_only=True)
        except Exception as error:  # torch raises anything over damaged files
            raise Refusal(
                f"{file} is no checkpoint that can be read ({type(error).__name__}): remove it to begin anew"
            ) from error
        mine = {"hyperparameters": json.dumps(asdict(self.hyper)), "digest": self.pictures.listed.digest}
        for key, value in mine.items():
            if state[key] != value:
                raise Refusal(f"{file} was made with {key} {state[key]}; this run has {value}: choose another --output")
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.done, self.rows = state["done"], state["rows"]

    def _save(self) -> None:
        state = {
            "hyperparameters": json.dumps(asdict(self.hyper)), "digest": self.pictures.listed.digest,
            "done": self.done, "rows": self.rows,
            "network": self.network.state_dict(), "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        part = self.output / "checkpoint.part"
        torch.save(state, part)
        part.replace(self.output / "checkpoint.pt")

    def epoch(self, epoch: int, progress: report.Progress) -> None:
        """One pass over the training pictures, then a look at the kept-back ones."""
        size, steps, before = self.hyper.passes[epoch][0], self.lengths[epoch], sum(self.lengths[:epoch])
        # Seeded by the epoch, so that a resumed run sees what an unbroken one would.
        generator = torch.Generator().manual_seed(self.hyper.seed * 100_003 + epoch)
        torch.manual_seed(self.hyper.seed * 100_003 + epoch)
        order = self.train[torch.randperm(len(self.train), generator=generator).numpy()]
        task = progress.epoch(epoch + 1, len(self.lengths), size, steps * self.hyper.batch)
        self.network.train()
        started, losses, hits = time.monotonic(), 0.0, 0
        for step in range(steps):
            self._set_rate(before + step)
            chosen = np.sort(order[step * self.hyper.batch : (step + 1) * self.hyper.batch])
            labels = torch.from_numpy(self.pictures.train.labels[chosen]).to(self.device)
            seen = compressed(self.pictures.train.pixels[chosen], self.hyper.compressed, generator, self.pool)
            pixels = random_resized_crop(self._input(seen), size, generator, (self.hyper.area, 1.0))
            others, share = labels, 0.0
            if torch.rand(1, generator=generator).item() < self.hyper.mixed:
                pixels, others, share = cutmix(pixels, labels, generator)
            logits = self._forward(self.network, pixels)
            loss = (1 - share) * self._loss(logits, labels) + share * self._loss(logits, others)
            self.network.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in self.optimizers:
                optimizer.step()
            self._average(before + step)
            losses += loss.item()
            hits += int((logits.argmax(1) == labels).sum())
            count = (step + 1) * self.hyper.batch
            progress.step(task, count, losses / (step + 1), hits / count)
        seconds = time.monotonic() - started
        kept = calibration.Scored(*self.logits(self.pictures.train, self.kept))
        row = {
            "epoch": epoch + 1, "pixels": size, "loss": round(losses / steps, 4), "train_top1": round(hits / count, 4),
            "kept_back_top1": round(calibration.top_k(*kept, 1), 4), "kept_back_top5": round(calibration.top_k(*kept, 5), 4),
            "images_per_s": round(count / seconds, 1), "seconds": round(seconds, 1),
        }
        self.rows.append(row)
        self.done = epoch + 1
        self._save()
        report.write(self.rows, self.output)
        progress.say(row)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.hyper.smoothing)

    def _set_rate(self, step: int) -> None:
        total = sum(self.lengths)
        rise = max(1, round(self.hyper.warm_up * total))
        share = (step + 1) / rise if step < rise else (total - step) / (total - rise)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.hyper.rate * share

    @torch.no_grad()
    def _average(self, step: int) -> None:
        decay = min(self.hyper.average, (1 + step) / (10 + step))  # short memory while everything moves
        for mine, new in zip(self.averaged.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(new, 1 - decay)
            else:
                mine.copy_(new)

    def _input(self, pixels: np.ndarray) -> Tensor:
        """(N, side, side, 3) uint8 → normalised (N, 3, side, side), channels last."""
        tensor = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device).permute(0, 3, 1, 2)
        return (tensor.float() - self.mean) / self.std

    def _forward(self, network: nn.Module, pixels: Tensor) -> Tensor:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = network(pixels)
        return logits.float()

    @torch.no_grad()
    def logits(self, split: data.Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Averaged weights, full size, no augmentation → (N, classes) float32 logits, (N,) labels."""
        found = [
            self._forward(self.averaged, self._input(split.pixels[rows[start : start + 500]])).cpu()
            for start in range(0, len(rows), 500)
        ]
        return torch.cat(found).numpy(), split.labels[rows]

    def finish(self, command: str) -> None:
        kept = calibration.Scored(*self.logits(self.pictures.train, self.kept))
        record: dict[str, Any] = {
            "command": command, "hyperparameters": asdict(self.hyper), "data_digest": self.pictures.listed.digest,
            "training_pictures": len(self.train), "kept_back_pictures": len(self.kept),
            "kept_back": {"top1": calibration.top_k(*kept, 1), "top5": calibration.top_k(*kept, 5)},
            "temperature": calibration.fit_temperature(kept),
            "epochs": self.rows, "hours": round(sum(row["seconds"] for row in self.rows) / 3600, 2),
            "machine": f"{os.cpu_count()} cores {platform.machine()}, {precision.processor()}, {self.device.type}",
            "precision": "bfloat16 autocast" if self.bf16 else "float32", "torch": torch.__version__,
        }
        if len(self.pictures.validation):
            found = calibration.Scored(*self.logits(self.pictures.validation, np.arange(len(self.pictures.validation))))
            scores = {"top1": calibration.top_k(*found, 1), "top5": calibration.top_k(*found, 5)}
            record["validation"] = {"pictures": len(found.truth), **scores}
        part = self.output / "weights.part"
        torch.save({name: value.contiguous() for name, value in self.averaged.state_dict().items()}, part)
        part.replace(self.output / "weights.pth")
        _write(self.output / "run.json", json.dumps(record, indent=1).encode())


def _optimizers(network: nn.Module, hyper: Hyperparameters) -> tuple[Muon, torch.optim.SGD]:
    """Muon for weights whose scale the normalisation behind them takes away, SGD for the others."""
    inner = [network.get_parameter(f"{layer}.weight") for layer, _ in normalised(network)]
    known = {id(weight) for weight in inner}
    outer = [parameter for parameter in network.parameters() if id(parameter) not in known]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in outer if p.ndim > 1], "weight_decay": hyper.weight_decay},
        {"params": [p for p in outer if p.ndim <= 1]},  # biases and normalisation
    ]
    others = torch.optim.SGD(groups, lr=hyper.rate, momentum=hyper.momentum, nesterov=True)
    return Muon(inner or [torch.zeros(1, 1)], hyper.rate, hyper.momentum), others


def _write(file: Path, content: bytes) -> None:
    part = file.with_suffix(".part")
    part.write_bytes(content)
    part.replace(file)
