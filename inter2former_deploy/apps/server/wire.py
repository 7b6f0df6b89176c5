"""JSON as it comes and goes. Types, ranges and sizes are checked here; what a picture has to say, in `prompts_of`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    StrictBool,
    StrictInt,
    WithJsonSchema,
)

from inter2former_deploy.apps.server.encodings import Status
from inter2former_deploy.apps.server.errors import bad_request
from inter2former_deploy.apps.server.paint import Paint
from inter2former_deploy.apps.server.pool import WirePrompt
from inter2former_deploy.core.runs import Runs
from inter2former_deploy.runtime.checks import check_box, check_click, check_stroke

NAME = r"^[^\x00-\x1f\x7f]{0,200}$"


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ValueError("must be a whole number")
    return int(value)


# JSON has one kind of number: 3.0 is a whole number like 3. Neither true nor "3" is one.
_NUMBER = Annotated[
    StrictInt | Annotated[float, Field(strict=True, allow_inf_nan=False), AfterValidator(_whole)],
    Field(union_mode="left_to_right"),
]
_Whole: TypeAlias = Annotated[int, GetPydanticSchema(lambda _, handler: handler.generate_schema(_NUMBER))]
Natural: TypeAlias = Annotated[_Whole, WithJsonSchema({"type": "integer", "minimum": 0})]
Whole: TypeAlias = Annotated[
    _Whole, Field(ge=0, le=1 << 53), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 1 << 53})
]
Size: TypeAlias = Annotated[
    _Whole, Field(ge=1, le=1 << 30), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 1 << 30})
]
Side: TypeAlias = Annotated[
    _Whole, Field(ge=0, le=1 << 30), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 1 << 30})
]
Coordinate: TypeAlias = Annotated[float, Field(strict=True, ge=-1e6, le=1e6, allow_inf_nan=False)]
Point: TypeAlias = Annotated[list[Coordinate], Field(min_length=2, max_length=2)]
Sizes: TypeAlias = Annotated[list[Size], Field(min_length=2, max_length=2)]
Sides: TypeAlias = Annotated[list[Side], Field(min_length=4, max_length=4)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClickPrompt(_Model):
    """A click, in pixels of the picture."""

    click: Point
    positive: StrictBool


class BoxPrompt(_Model):
    """A box around the object: left, top, right, bottom."""

    box: Annotated[list[Coordinate], Field(min_length=4, max_length=4)]


class StrokePrompt(_Model):
    """A line on the object, or on what is not."""

    stroke: Annotated[list[Point], Field(min_length=1)]
    positive: StrictBool


class RunLengths(_Model):
    """A mask of the whole picture as COCO's uncompressed run lengths: down the columns, background first."""

    size: Sizes = Field(description="Height and width of the picture.")
    counts: Annotated[list[Natural], Field(min_length=1)]


class MaskPrompt(_Model):
    """A mask to go on from."""

    mask: RunLengths


class PaintPrompt(_Model):
    """The brush: pixels whose centre lies within `radius` of the line become object, or background."""

    paint: Annotated[list[Point], Field(min_length=1)]
    radius: Annotated[float, Field(strict=True, gt=0, le=10_000, allow_inf_nan=False)]
    erase: StrictBool


PromptJson: TypeAlias = ClickPrompt | BoxPrompt | StrokePrompt | MaskPrompt | PaintPrompt
Prompts: TypeAlias = list[PromptJson]


class MaskAnswer(_Model):
    """The object as it was segmented."""

    mask: RunLengths
    box: Sides = Field(description="Left, top, right, bottom of the object, exclusive; all 0 without any.")
    area: StrictInt = Field(description="Pixels.")


class PolygonsAnswer(_Model):
    """The object as outlines along the corners of pixels: of each part the outer ring, then its holes."""

    polygons: list[list[list[Point]]]
    size: Sizes = Field(description="Height and width of the picture.")
    box: Sides
    area: StrictInt


class ImageAnswer(_Model):
    """A picture, and where its encoding is."""

    id: str
    width: int
    height: int
    state: Literal["none", "queued", "encoding", "ready", "failed"]
    position: int = Field(description="In the queue, from 1; 0 where it does not wait.")
    error: str | None


class ErrorText(_Model):
    """What is wrong."""

    code: str = Field(description="One word for programs.")
    message: str = Field(description="For people.")


class ErrorAnswer(BaseModel):
    """A request that was refused."""

    error: ErrorText


def image_json(key: str, height: int, width: int, status: Status) -> dict[str, Any]:
    """An `ImageAnswer`."""
    return {
        "id": key,
        "width": width,
        "height": height,
        "state": status.state,
        "position": status.position,
        "error": status.error,
    }


def prompts_of(sent: Sequence[PromptJson], height: int, width: int, most: int) -> list[WirePrompt]:
    """Prompts as the service takes them.

    Args:
        sent: by a client.
        height: of the picture, pixels.
        width: of the picture, pixels.
        most: prompts at most, corners of lines counted.

    Raises:
        ApiError: one is not possible, or there are too many; the message says which.
    """
    prompts: list[WirePrompt] = []
    total = 0
    for number, prompt in enumerate(sent):
        corners = prompt.stroke if isinstance(prompt, StrokePrompt) else getattr(prompt, "paint", ())
        total += max(1, len(corners))
        if total > most:
            raise bad_request(f"there are more than {most} prompts (corners of lines count)")
        try:
            prompts.append(_prompt_of(prompt, height, width))
        except (TypeError, ValueError) as error:
            raise bad_request(f"prompts[{number}]: {error}") from error
    return prompts


def _prompt_of(prompt: PromptJson, height: int, width: int) -> WirePrompt:
    if isinstance(prompt, ClickPrompt):
        x, y = prompt.click
        return check_click(x, y, prompt.positive)
    if isinstance(prompt, BoxPrompt):
        return check_box(*prompt.box)
    if isinstance(prompt, StrokePrompt):
        return check_stroke(prompt.stroke, prompt.positive)
    if isinstance(prompt, MaskPrompt):
        return _runs(prompt.mask, height, width)
    return Paint(tuple((x, y) for x, y in prompt.paint), prompt.radius, prompt.erase)


def _runs(sent: RunLengths, height: int, width: int) -> Runs:
    runs = Runs.from_json({"size": sent.size, "counts": sent.counts}, height, width)
    if not runs.area:
        raise ValueError("the start mask holds no object")
    return runs
