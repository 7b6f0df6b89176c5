"""The bundled weights segment: scenes of the held-out seed that are easy to see, at a size they were trained on."""

from __future__ import annotations

import numpy as np

from inter2former_deploy.checkpoint import bundled_weights, load_checkpoint, load_model
from inter2former_deploy.config import DEMO
from inter2former_deploy.data import Sample
from inter2former_deploy.data.synthetic import HELD_OUT_SEED, make_scene, render
from inter2former_deploy.evaluation import ReferenceSegmenter, evaluate

SIZE = 256


class EasyScenes:
    """Solid things of plain colours."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        scene = make_scene(HELD_OUT_SEED, 3 * index + 1, difficulty=0.0)
        image, masks = render(scene, SIZE)
        return Sample(scene.name, image, masks[scene.target].astype(np.uint8))


def test_the_file_is_small_and_says_what_it_is():
    assert bundled_weights().stat().st_size < 15e6
    assert load_checkpoint(bundled_weights()).config == DEMO


def test_five_clicks_find_plain_things():
    ious = [
        r.ious
        for r in evaluate(ReferenceSegmenter(load_model(bundled_weights()), SIZE), EasyScenes(), clicks=5).results
    ]
    assert np.mean(ious, 0)[-1] > 0.8
    assert np.mean(ious, 0)[0] > 0.5
