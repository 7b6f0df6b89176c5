"""Where the operator library is, and how it is registered with onnxruntime."""

from __future__ import annotations

import os
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

from inter2former_deploy.core.errors import OperatorLibraryError

if TYPE_CHECKING:
    import onnxruntime

# As CMake names a module of the system.
LIBRARY_FILE = {"win32": "inter2former_ops.dll", "darwin": "libinter2former_ops.dylib"}.get(
    sys.platform, "libinter2former_ops.so"
)
LIBRARY_VARIABLE = "INTER2FORMER_OPS_LIBRARY"  # names another library, for developers

_REMEDY = (
    "reinstall with a C++17 compiler at hand (pip install --force-reinstall --no-deps .), "
    f"or name a built library in {LIBRARY_VARIABLE}, or do without it (custom_ops=False)"
)


def library_path() -> Path:
    """The operator library: `INTER2FORMER_OPS_LIBRARY` where set, else the one installed with the package.

    Raises:
        OperatorLibraryError: there is none.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            raise OperatorLibraryError(f"{LIBRARY_VARIABLE} names {named}, which is no file; correct or unset it")
        return path
    path = Path(str(distribution("inter2former-deploy").locate_file(f"inter2former_deploy/lib/{LIBRARY_FILE}")))
    if not path.is_file():
        raise OperatorLibraryError(f"this installation has no operator library ({path}): {_REMEDY}")
    return path


def register(session_options: onnxruntime.SessionOptions) -> Path:
    """Make the operators known to a session that will be created with these options.

    Returns:
        The library that was loaded.

    Raises:
        OperatorLibraryError: there is none, or onnxruntime cannot load it.
    """
    path = library_path()
    try:
        session_options.register_custom_ops_library(str(path))
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise OperatorLibraryError(f"the operator library {path} does not load ({error}): {_REMEDY}") from error
    return path
