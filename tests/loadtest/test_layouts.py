"""Each layout gives each photo its own answer, whatever the batch; speed is no matter here."""

from __future__ import annotations

import click
import pytest

from loadtest import layouts
from loadtest.engines import Engine
from loadtest.layouts import LAYOUTS, Processes, Task
from loadtest.machine import Machine
from tests import models

CPU = Engine("cpu", "fp32")
BRIGHT = [2, 0, 3, 1, 1]  # five photos: no batch size below divides them


@pytest.fixture(scope="module")
def machine(model_folder):
    """The tiny model that names the brightest quadrant, two cores."""
    photos = [models.png(models.quadrant_picture(bright, 16 + number)) for number, bright in enumerate(BRIGHT)]
    with Machine(model_folder / "quadrants" / "1" / "model.onnx", photos, 2) as made:
        yield made


@pytest.mark.parametrize("batch", [1, 4, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_photo_gets_its_own_answer(layout, batch, machine):
    """Buffers that are used again, workers with places of their own: each is a way to mix photos up."""
    found = machine.measure(layout, CPU, False, Task("all", batch, "exact", 0.0))
    assert [found.answers[photo].classes[0] for photo in range(len(BRIGHT))] == BRIGHT
    assert found.images_per_s > 0


@pytest.mark.parametrize("layout", ["threads", "processes", "together"])
def test_parts_are_measured_alone(layout, machine):
    """Their sum is what the whole is held against."""
    decoded = machine.measure(layout, CPU, False, Task("decode", 4, "scaled", 0.0))
    assert decoded.images_per_s > 0
    assert not decoded.answers
    model = machine.measure(layout, CPU, False, Task("model", 4, "exact", 0.0))
    assert model.images_per_s > 0
    assert model.answers
    assert all(answer.classes[0] == BRIGHT[photo] for photo, answer in model.answers.items())


@pytest.mark.parametrize("layout", ["threads", "together"])
def test_the_model_alone_decodes_nothing_while_the_clock_runs(layout, machine, monkeypatch):
    """A part with some of the other in it would lower what the ceiling must reach."""
    decoded: list[str] = []
    fill, repeat = layouts.Model.fill, layouts.repeat

    def counting(model, row, data, decoding):
        decoded.append(decoding)
        fill(model, row, data, decoding)

    def from_here(*given):
        decoded.clear()
        return repeat(*given)

    monkeypatch.setattr(layouts.Model, "fill", counting)
    monkeypatch.setattr(layouts, "repeat", from_here)
    machine.measure(layout, CPU, False, Task("model", 4, "exact", 0.0))
    assert not decoded
    machine.measure(layout, CPU, False, Task("all", 4, "exact", 0.0))
    assert decoded


def test_one_picture_alone_takes_time(machine):
    """The figure that a lone request is held against."""
    assert machine.one_picture_ms(CPU, False, 0.0) > 0


def test_a_photo_that_cant_be_decoded_is_named(model_folder):
    """Before anything is measured."""
    photos = [models.png(models.quadrant_picture(0)), b"no picture"]
    with (Machine(model_folder / "quadrants" / "1" / "model.onnx", photos, 1) as made,
          pytest.raises(click.ClickException, match="photo 2 of 2 can't be decoded")):  # fmt: skip
        made.reference(CPU, "exact")


def test_a_process_that_fails_says_why(tmp_path):
    """Its own message, not that a pipe is broken; and none is left behind."""
    with pytest.raises(click.ClickException, match=r"a process of the layout processes: ClickException: .*refuses it"):
        Processes(tmp_path / "none.onnx", [b""], 1)


def test_photos_come_in_turn():
    """Each as often as the others: they differ in size."""
    assert layouts.turn(3, 4, 5) == [3, 4, 0, 1]
    assert layouts.turn(0, 4, 1) == [0] * 4


def test_a_cell_sees_each_photo_however_short_it_is():
    """Rates of different photos can't be compared."""
    seen: list[int] = []
    layouts.repeat(lambda done: seen.extend(range(done, done + 4)), Task("all", 4, "exact", 0.0), least=10)
    assert seen == [*range(12)]
