"""CVAT for images 1.1: one `annotations.xml` with masks; CVAT takes it as "CVAT 1.1" for a task of these pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

from inter2former_deploy.annotations.formats import Export, class_of
from inter2former_deploy.annotations.masks import box_counts
from inter2former_deploy.core.files import replacing
from inter2former_deploy.core.runs import Runs


def write(export: Export) -> None:
    """Write all pictures, in order; masks are run lengths along the rows of their boxes."""
    with replacing(export.folder / "annotations.xml") as unfinished, unfinished.open("w", encoding="utf-8") as file:
        document = XMLGenerator(file, "utf-8", short_empty_elements=True)
        document.startDocument()
        with _element(document, "annotations"):
            _text(document, "version", "1.1")
            with _element(document, "meta"), _element(document, "task"), _element(document, "labels"):
                for label in export.classes:
                    with _element(document, "label"):
                        _text(document, "name", label.name)
                        _text(document, "color", label.colour)
                        _text(document, "attributes", "")
            for number, annotated in enumerate(export.pictures):
                picture = annotated.picture
                size = {"width": str(picture.width), "height": str(picture.height)}
                with _element(document, "image", {"id": str(number), "name": picture.name, **size}):
                    for order, entry in enumerate(export.filled(annotated)):
                        fixed = {
                            "label": class_of(entry),
                            "source": "semi-auto",
                            "occluded": "0",
                            "z_order": str(order),
                        }
                        with _element(document, "mask", fixed | _mask(entry.mask)):
                            pass
        document.endDocument()


def _mask(runs: Runs) -> dict[str, str]:
    assert runs.box is not None
    left, top, right, bottom = runs.box
    sides = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    rle = ", ".join(map(str, box_counts(runs, runs.box)))
    return {"rle": rle} | {name: str(value) for name, value in sides.items()}


@contextmanager
def _element(document: XMLGenerator, name: str, attributes: Mapping[str, str] | None = None) -> Iterator[None]:
    document.startElement(name, AttributesImpl(dict(attributes or {})))
    yield
    document.endElement(name)


def _text(document: XMLGenerator, name: str, text: str) -> None:
    with _element(document, name):
        document.characters(text)
