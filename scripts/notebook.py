#!/usr/bin/env python3
"""Run examples/python/session.ipynb in a kernel of its own, as a reader would; fails where a cell fails.

    pip install nbclient ipykernel
    python scripts/notebook.py [FILE]     FILE: where the notebook goes with its outputs, if anywhere

The notebook in the repository stays without outputs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

NOTEBOOK = Path(__file__).parents[1] / "examples" / "python" / "session.ipynb"


def main() -> None:
    """Run it in an empty folder, beside the photograph that it names."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "exporters").symlink_to(NOTEBOOK.parents[2] / "exporters")
        (root / "examples" / "python").mkdir(parents=True)
        NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(root / "examples" / "python")}},
        ).execute()
    if len(sys.argv) > 1:
        nbformat.write(notebook, sys.argv[1])
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            print(output.get("text") or output.get("data", {}).get("text/plain", ""))


if __name__ == "__main__":
    main()
