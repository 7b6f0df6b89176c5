"""Prompts on the command line: options of several kinds, which count in the order in which they were typed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

if TYPE_CHECKING:
    from inter2former_deploy.core.prompts import Prompt
    from inter2former_deploy.runtime.region import Region

PROMPT_OPTIONS = {  # parameter -> option
    "fg": "--fg",
    "bg": "--bg",
    "box": "--box",
    "stroke": "--stroke",
    "bg_stroke": "--bg-stroke",
    "start": "--start",
    "prompt": "--prompt",  # a file with some of the others
}


@dataclass(frozen=True)
class TypedPrompt:
    """A prompt as it stands on the command line."""

    parameter: str  # one of `PROMPT_OPTIONS`
    text: str

    def __str__(self) -> str:
        return f"{PROMPT_OPTIONS[self.parameter]} {self.text}"


class OrderedPrompts(TyperCommand):
    """Remembers the order of the options of prompts; the values of each option alone do not say it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse once for the order, then as usual."""
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        texts = {name: iter(values.get(name) or ()) for name in PROMPT_OPTIONS}
        names = [parameter.name for parameter in order if parameter.name in texts]
        ctx.meta[__name__] = [TypedPrompt(name, next(texts[name])) for name in names]
        return super().parse_args(ctx, args)


def typed_prompts(ctx: Any) -> list[TypedPrompt]:
    """The prompts of a command line, in order; those of a file stand in its place."""
    typed: list[TypedPrompt] = []
    for given in ctx.meta[__name__]:
        if given.parameter == "prompt":
            from inter2former_deploy.compat import samexporter

            found = samexporter.read_prompts(Path(given.text))
            typed += [TypedPrompt(name, ",".join(map(repr, numbers))) for name, numbers in found]
        else:
            typed.append(given)
    for prompt in typed:
        if prompt.parameter != "start":
            _numbers(prompt)  # before anything is read
    return typed


def read_prompts(typed: list[TypedPrompt], image: Path, region: Region) -> list[Prompt]:
    """Prompts in pixels of the image, checked against its size; start masks are read.

    Args:
        typed: of the command line.
        image: whose size it is, for messages.
        region: of the image, which holds its size.

    Raises:
        ValueError: a prompt reaches outside the region, or a mask is unreadable, empty or of another size.
    """
    prompts = []
    for prompt in typed:
        made = _start_mask(prompt, image, region) if prompt.parameter == "start" else _prompt(prompt)
        try:
            region.to_window(made)
        except ValueError as error:
            width, height = region.picture_width, region.picture_height
            raise ValueError(f"{prompt}: {error} ({image} is {width} x {height} pixels)") from None
        prompts.append(made)
    return prompts


def region_of(text: str) -> tuple[int, int, int, int]:
    """The sides of `--region`.

    Raises:
        ValueError: these are not four whole numbers.
    """
    try:
        x0, y0, x1, y1 = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--region is X0,Y0,X1,Y1 in whole pixels, such as 1000,800,2024,1824, not {text!r}") from None
    return x0, y0, x1, y1


def _prompt(prompt: TypedPrompt) -> Prompt:
    from inter2former_deploy.runtime.checks import check_box, check_click, check_stroke

    points = _numbers(prompt)
    try:
        if prompt.parameter == "box":
            return check_box(*points[0])
        if prompt.parameter in ("stroke", "bg_stroke"):
            return check_stroke(points, prompt.parameter == "stroke")
        x, y = points[0]
        return check_click(x, y, prompt.parameter == "fg")
    except ValueError as error:
        raise ValueError(f"{prompt}: {error}") from None


def _numbers(prompt: TypedPrompt) -> list[tuple[float, ...]]:
    """Groups of numbers: one, of a stroke one for each point."""
    stroke, box = prompt.parameter in ("stroke", "bg_stroke"), prompt.parameter == "box"
    expected = 4 if box else 2
    try:
        groups = [tuple(float(part) for part in group.split(",")) for group in prompt.text.split()]
        if not groups or any(len(group) != expected for group in groups) or (len(groups) > 1 and not stroke):
            raise ValueError
    except ValueError:
        form = "a click is X,Y in pixels, such as 320,240"
        if box:
            form = "a box is X0,Y0,X1,Y1 in pixels, such as 100,80,420,300"
        if stroke:
            form = 'a stroke is "X,Y X,Y ..." in pixels, such as "100,80 150,90 180,120"'
        raise ValueError(f"{PROMPT_OPTIONS[prompt.parameter]}: {form}, not {prompt.text!r}") from None
    return groups


def _start_mask(prompt: TypedPrompt, image: Path, region: Region) -> Prompt:
    from inter2former_deploy.core.masks import read_mask
    from inter2former_deploy.core.prompts import StartMask

    mask = read_mask(prompt.text) == 1
    height, width = region.picture_height, region.picture_width
    if mask.shape != (height, width):
        raise ValueError(
            f"{prompt}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, {image} has {width} x {height}: "
            "they must be of one size"
        )
    if not mask.any():
        raise ValueError(f"{prompt}: the mask holds no object")
    return StartMask(mask)
