"""Files that appear whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write instead of `path`, whose place it takes when the block ends well.

    Nobody meets half of a file; when the block fails, what was there stays and the unfinished file goes.

    Args:
        path: in a folder that exists.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # a name of this call alone
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
