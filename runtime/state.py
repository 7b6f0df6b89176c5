"""A session as plain JSON: which model and picture, and all prompts in order. Whoever replays them has the same mask.

    {"format": "inter2former-deploy session", "version": 1,
     "model": {"family": "inter2former", "bundle": "...", "size": 1024},
     "image": {"height": 600, "width": 900, "key": "..."},
     "region": null or [x0, y0, x1, y1],
     "prompts": [{"click": [x, y], "positive": true}, {"box": [x0, y0, x1, y1]},
                 {"stroke": [[x, y], ...], "positive": false}, {"mask": {"size": [H, W], "counts": [...]}}]}

Coordinates are pixels of the picture. Masks are uncompressed run lengths as COCO has them: down the columns, column
after column, pixels of the background first. `key` is that of `EncodedImage.picture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inter2former_deploy.core.errors import SessionStateError
from inter2former_deploy.core.prompts import Box, Click, Prompt, StartMask, Stroke
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime.checks import check_box, check_click, check_mask, check_stroke
from inter2former_deploy.runtime.region import Region

FORMAT = "inter2former-deploy session"
VERSION = 1
MOST_PROMPTS = 100_000  # of a state, the corners of strokes counted: each is decoded or painted

Json = dict[str, Any]


@dataclass(frozen=True)
class SessionState:
    """What a session was told, and about which picture."""

    family: str
    bundle: str  # what tells the bundle's graphs apart from others
    size: int  # S, the model resolution
    key: str  # of the picture, or of its region
    region: Region  # of the picture, maybe all of it
    prompts: tuple[Prompt, ...] = ()  # pixels of the picture

    def to_dict(self) -> Json:
        """Plain dicts, lists, strings, numbers."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": {"family": self.family, "bundle": self.bundle, "size": self.size},
            "image": {"height": self.region.picture_height, "width": self.region.picture_width, "key": self.key},
            "region": None if self.region.is_whole else list(self.region.sides),
            "prompts": [prompt_to_json(prompt) for prompt in self.prompts],
        }

    @classmethod
    def from_dict(cls, data: object, height: int, width: int) -> SessionState:
        """A state from what `to_dict` gave, or from anything else.

        Args:
            data: what a JSON file held.
            height: of the picture that the state is to be used with, pixels. No larger masks are made.
            width: likewise.

        Raises:
            SessionStateError: it is no such state, or of a picture of another size; the message names the entry.
        """
        try:
            return _read(data, height, width)
        except (TypeError, ValueError) as error:
            raise SessionStateError(f"this is no state of a session: {error}") from error


def _read(data: object, height: int, width: int) -> SessionState:
    whole = _object(data, "the state", "format", "version", "model", "image", "region", "prompts")
    if whole["format"] != FORMAT:
        raise ValueError(f"format must be {FORMAT!r}, got {whole['format']!r}")
    if whole["version"] != VERSION:
        raise ValueError(f"version must be {VERSION}, got {whole['version']!r}: update inter2former-deploy")
    model = _object(whole["model"], "model", "family", "bundle", "size")
    image = _object(whole["image"], "image", "height", "width", "key")
    if (stated := (image["height"], image["width"])) != (height, width):
        raise ValueError(f"its image has {stated[0]!r} rows and {stated[1]!r} columns, this one {height} and {width}")
    sides = whole["region"]
    region = Region.whole(height, width) if sides is None else Region.of(sides, height, width)
    prompts: list[Prompt] = []
    points = 0
    for number, entry in enumerate(_list(whole["prompts"], "prompts")):
        name = f"prompts[{number}]"
        points += len(entry["stroke"]) if isinstance(entry, dict) and isinstance(entry.get("stroke"), list) else 1
        if points > MOST_PROMPTS:
            raise ValueError(f"prompts are more than {MOST_PROMPTS}")
        try:
            prompts.append(prompt := prompt_from_json(entry, height, width))
            region.to_window(prompt)  # raises ValueError where it lies outside
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
    return SessionState(
        _text(model["family"], "model.family"),
        _text(model["bundle"], "model.bundle"),
        _whole(model["size"], "model.size"),
        _text(image["key"], "image.key"),
        region,
        tuple(prompts),
    )


def prompt_to_json(prompt: Prompt) -> Json:
    """A prompt as a state holds it."""
    if isinstance(prompt, Click):
        return {"click": [prompt.x, prompt.y], "positive": prompt.positive}
    if isinstance(prompt, Box):
        return {"box": list(prompt)}
    if isinstance(prompt, Stroke):
        return {"stroke": [list(point) for point in prompt.points], "positive": prompt.positive}
    return {"mask": Runs.of(prompt.mask).to_json()}


def prompt_from_json(entry: object, height: int, width: int) -> Prompt:
    """A prompt from what `prompt_to_json` gave, or from anything else.

    Args:
        entry: JSON.
        height: of the picture, pixels: a mask must be of its size.
        width: likewise.

    Raises:
        TypeError, ValueError: it is no prompt.
    """
    kinds = {"click": ("positive",), "box": (), "stroke": ("positive",), "mask": ()}
    found = [kind for kind in kinds if isinstance(entry, dict) and kind in entry]
    if len(found) != 1:
        raise ValueError(f"a prompt must be a JSON object with one of {', '.join(kinds)}")
    (kind,) = found
    value = _object(entry, "a prompt", kind, *kinds[kind])
    if kind == "mask":
        return StartMask(check_mask(Runs.from_json(value[kind], height, width).mask(), (height, width)))
    numbers = _list(value[kind], kind)
    if kind == "stroke":
        return check_stroke(numbers, value["positive"])
    if len(numbers) != (expected := 2 if kind == "click" else 4):
        raise ValueError(f"{kind} must have {expected} numbers, got {len(numbers)}")
    if kind == "click":
        x, y = numbers
        return check_click(x, y, value["positive"])
    return check_box(*numbers)


def _object(value: object, name: str, *keys: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, got {type(value).__name__}")
    if missing := [key for key in keys if key not in value]:
        raise ValueError(f"{name} lacks {', '.join(missing)}")
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got {type(value).__name__}")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {type(value).__name__}")
    return value


def _whole(value: object, name: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return value
