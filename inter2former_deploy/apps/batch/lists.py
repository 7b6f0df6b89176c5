"""Lists of pictures and prompts, as JSON lines or parquet: read, checked, and cut into parts."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from inter2former_deploy.apps.batch.places import below, read_bytes
from inter2former_deploy.core.packages import PARQUET_MODULES, require

MOST_BYTES = 1 << 31  # of a list
COLUMNS = ("image", "prompts", "region", "id")

Sides: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True)
class Row:
    """An object in a picture, as a list describes it."""

    number: int  # in the list, from 0
    image: str  # as the list calls it
    prompts: tuple[Any, ...]  # JSON, checked when the picture's size is known
    region: Sides | None = None  # of the picture, which is segmented by itself
    id: str | int | None = None  # of whoever made the list


@dataclass(frozen=True)
class Task:
    """The objects of one picture, or of one region of it: it is encoded once for all of them."""

    picture: str  # path or URL
    rows: tuple[Row, ...]

    @property
    def region(self) -> Sides | None:
        """The region of all rows."""
        return self.rows[0].region


@dataclass(frozen=True)
class Part:
    """Some pictures of a list, whose results are one file."""

    name: str  # of the file, without what comes behind it: its number and what tells its content apart
    tasks: tuple[Task, ...]

    @property
    def rows(self) -> int:
        """Objects in it."""
        return sum(len(task.rows) for task in self.tasks)


def read_list(place: str) -> list[Row]:
    """The rows of a list.

    Args:
        place: path or URL of a file of JSON lines, or of a parquet file if it ends in `.parquet`. Each line is an
            object with `image`, `prompts` and, if need be, `region` and `id`. A parquet file has columns of these
            names, and `prompts` may be texts that hold JSON.

    Raises:
        OSError: the list cannot be read.
        ValueError: it is no list, or a row is none; the message names the row.
        MissingPackageError: the package that reads parquet is not installed.
    """
    content = read_bytes(place, MOST_BYTES, "list")
    parquet = place.lower().endswith(".parquet")
    rows = []
    for number, value in enumerate(_parquet(content, place) if parquet else _lines(content, place)):
        try:
            rows.append(_row(number, value))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}, {'row' if parquet else 'line'} {number + 1}: {error}") from error
    if not rows:
        raise ValueError(f"{place} holds no rows")
    return rows


def parts_of(rows: Sequence[Row], images: str, pictures: int, options: object) -> list[Part]:
    """Rows by their pictures, in the order in which the list names these first, cut into parts.

    Args:
        rows: of a list.
        images: path or URL of the folder that the list may speak of.
        pictures: of a part, at most.
        options: all else that decides about the results, JSON: parts of other options have other names.

    Raises:
        ValueError: a row names what does not lie in the folder.
    """
    tasks: dict[tuple[str, Sides | None], list[Row]] = {}
    places: dict[str, str] = {}
    for row in rows:
        if row.image not in places:
            try:
                places[row.image] = below(images, row.image)
            except ValueError as error:
                raise ValueError(f"row {row.number + 1} of the list: {error}") from None
        tasks.setdefault((places[row.image], row.region), []).append(row)
    whole = [Task(picture, tuple(of_picture)) for (picture, _), of_picture in tasks.items()]
    parts = []
    for number, at in enumerate(range(0, len(whole), pictures)):
        taken = tuple(whole[at : at + pictures])
        told = [[row.number, row.image, row.prompts, row.region, row.id] for task in taken for row in task.rows]
        digest = hashlib.sha256(json.dumps([options, told], sort_keys=True).encode()).hexdigest()[:16]
        parts.append(Part(f"{number:06d}-{digest}", taken))
    return parts


def _lines(content: bytes, place: str) -> Iterator[Any]:
    for number, line in enumerate(io.BytesIO(content), 1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}, line {number}: each line must be a JSON object ({error!s:.200})") from None


def _parquet(content: bytes, place: str) -> Iterator[Any]:
    require(*PARQUET_MODULES, extra="storage", needed_by=f"reading {place}")
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        columns = [name for name in file.schema_arrow.names if name in COLUMNS]
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                yield {name: _without_nothing(value) for name, value in row.items() if value is not None}
    except pyarrow.ArrowException as error:
        raise ValueError(f"{place} is no parquet file that can be read: {error!s:.200}") from error


def _without_nothing(value: Any) -> Any:
    """A value of parquet as JSON has it: fields of a struct that a row lacks are null there."""
    if isinstance(value, dict):
        return {name: _without_nothing(inner) for name, inner in value.items() if inner is not None}
    return [_without_nothing(inner) for inner in value] if isinstance(value, list) else value


def _row(number: int, value: Any) -> Row:
    if not isinstance(value, dict):
        raise ValueError("each row must be a JSON object")
    image, prompts, region, name = (value.get(column) for column in COLUMNS)
    if not isinstance(image, str) or not image:
        raise ValueError("image must be the name of a picture")
    if isinstance(prompts, str):
        try:
            prompts = json.loads(prompts)
        except (ValueError, RecursionError):
            raise ValueError("prompts must be a list, or a text that holds one as JSON") from None
    if not isinstance(prompts, list) or not prompts:
        raise ValueError("prompts must be a list of at least one prompt")
    sides = None
    if region is not None:
        if not isinstance(region, list) or len(region) != 4 or not all(type(side) is int for side in region):
            raise ValueError(f"region must be four whole numbers x0, y0, x1, y1, got {region!r:.80}")
        sides = (region[0], region[1], region[2], region[3])
    if name is not None and type(name) not in (str, int):
        raise ValueError(f"id must be a text or a whole number, got {type(name).__name__}")
    return Row(number, image, tuple(prompts), sides, name)
