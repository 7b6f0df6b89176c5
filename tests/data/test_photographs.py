"""The outlined photographs of scikit-image."""

import numpy as np
import pytest
from typer.testing import CliRunner

from inter2former_deploy.apps.cli import app
from inter2former_deploy.data import open_dataset
from inter2former_deploy.data.photos import TRAINED

SAMPLES = open_dataset("photographs")


def test_the_pictures_are_those_of_scikit_image_and_none_is_trained_on():
    import skimage.data

    pictures = {SAMPLES[i].picture: SAMPLES[i].image for i in range(len(SAMPLES))}
    assert len(SAMPLES) == 18
    assert not set(pictures) & set(TRAINED)
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        np.testing.assert_array_equal(pictures[name], getattr(skimage.data, name)())


@pytest.mark.parametrize(
    ("thing", "inside", "outside", "group"),
    [
        ("chelsea.cat", [(180, 220), (20, 200)], [(20, 10), (100, 420)], "large"),
        ("chelsea.nose", [(235, 270)], [(225, 200)], "small"),
        ("coffee.cup", [(60, 200), (280, 215)], [(200, 100), (290, 360)], "large"),
        ("rocket.rocket", [(150, 323), (350, 322)], [(150, 360), (100, 323)], "small"),
        ("astronaut.astronaut", [(120, 220), (400, 80)], [(420, 350), (60, 80)], "large"),
        ("motorcycle.bottle", [(75, 409)], [(75, 425)], "small"),
    ],
)
def test_a_thing_covers_its_pixels(thing, inside, outside, group):
    sample = next(sample for sample in map(SAMPLES.__getitem__, range(len(SAMPLES))) if sample.name == thing)
    assert [int(sample.mask[at]) for at in inside + outside] == [1] * len(inside) + [0] * len(outside)
    assert sample.group == group


def test_they_are_not_trained_on(tmp_path):
    result = CliRunner().invoke(app, ["train", "photographs", "-o", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "not to train on" in result.output
    assert not (tmp_path / "run").exists()
