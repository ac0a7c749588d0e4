"""The scores of the demo's pictures tell what is right from what is not, one property at a time."""

from __future__ import annotations

from benchmarks.demo_pictures import PROPERTIES, random_scenes, scores
from pipeline.demo_data import draw

SCENES = random_scenes(24)


def test_drawn_scenes_are_right() -> None:
    assert scores([draw(scene, 32) for scene in SCENES], SCENES) == dict.fromkeys(PROPERTIES, 1.0)


def test_another_scene_is_wrong_in_what_differs() -> None:
    def found(**change: str) -> dict[str, float]:
        return scores([draw(scene._replace(**change), 32) for scene in SCENES], SCENES)

    at_the_top = [scene.place == "at the top" for scene in SCENES]
    assert found(place="at the top")["place"] == sum(at_the_top) / len(SCENES) < 0.5
    assert found(place="at the top")["shape"] == 1
    circles = [scene.shape == "circle" for scene in SCENES]
    assert found(shape="circle")["shape"] == sum(circles) / len(SCENES) < 0.5
    assert found(shape="circle")["ground"] == 1
    black = [scene.ground == "black" for scene in SCENES]
    assert found(ground="black")["ground"] == sum(black) / len(SCENES) < 0.5
