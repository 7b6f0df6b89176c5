"""Label Studio: `tasks.json` to import, and `config.xml`, the labelling configuration that its regions belong to."""

from __future__ import annotations

import json
from typing import Any
from xml.sax.saxutils import quoteattr

from inter2former_deploy.annotations.formats import Export, class_of
from inter2former_deploy.annotations.masks import row_counts
from inter2former_deploy.core.files import replacing
from inter2former_deploy.core.runs import Runs

LENGTH_BITS = (3, 4, 8, 16)  # of the lengths in a brush's code, which say which of the four they are
VALUE_BITS = 8
CHANNELS = 4  # the mask stands in each of red, green, blue, alpha

BRUSH, IMAGE = "brush", "img"  # names of tags in the configuration


def write(export: Export) -> None:
    """Write a task for each picture, with an annotation where there are objects."""
    tasks = []
    for annotated in export.pictures:
        picture = annotated.picture
        task: dict[str, Any] = {"data": {"image": export.image_root + picture.name}}
        if annotated.objects:
            regions = [region(entry.mask, class_of(entry)) | {"id": entry.id} for entry in annotated.objects]
            task["annotations"] = [{"result": regions}]
        tasks.append(task)
    with replacing(export.folder / "tasks.json") as unfinished:
        unfinished.write_text(json.dumps(tasks, separators=(",", ":")), encoding="utf-8")
    labels = "".join(
        f"    <Label value={quoteattr(entry.name)} background={quoteattr(entry.colour)}/>\n" for entry in export.classes
    )
    config = (
        f'<View>\n  <Image name="{IMAGE}" value="$image"/>\n  <BrushLabels name="{BRUSH}" toName="{IMAGE}">\n'
        f"{labels}  </BrushLabels>\n</View>\n"
    )
    (export.folder / "config.xml").write_text(config, encoding="utf-8")


def region(runs: Runs, label: str, brush: str = BRUSH, image: str = IMAGE) -> dict[str, Any]:
    """A brush region of Label Studio.

    Args:
        runs: the mask.
        label: its class.
        brush: name of the brush's tag in the labelling configuration.
        image: name of the image's.
    """
    return {
        "from_name": brush,
        "to_name": image,
        "type": "brushlabels",
        "original_width": runs.width,
        "original_height": runs.height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brush_code(runs), "brushlabels": [label]},
    }


def brush_code(runs: Runs) -> list[int]:
    """A mask in Label Studio's code: bytes, 255 where the object is, row after row.

    All blocks are repetitions: 1, which of the four lengths, the length less 1, the value.
    """
    bits = [f"{CHANNELS * runs.height * runs.width:032b}", f"{VALUE_BITS - 1:05b}"]
    bits += [f"{length - 1:04b}" for length in LENGTH_BITS]
    value = 0
    for count in row_counts(runs):
        left = CHANNELS * count
        while left:
            length = min(left, 1 << LENGTH_BITS[-1])
            which = next(i for i, size in enumerate(LENGTH_BITS) if length <= 1 << size)
            bits.append(f"1{which:02b}{length - 1:0{LENGTH_BITS[which]}b}{value:08b}")
            left -= length
        value ^= 255
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
