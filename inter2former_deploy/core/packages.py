"""Packages that only some commands need: looked for before any work, and named with what installs them."""

from __future__ import annotations

from importlib.util import find_spec

from inter2former_deploy.core.errors import MissingPackageError

# Modules of the extra "export".
TORCH_MODULES = ("torch",)  # for the reference modules
EXPORT_MODULES = (*TORCH_MODULES, "onnx", "onnx_ir", "onnxscript", "ml_dtypes")
# Modules of the extra "train", which brings "export", too.
PLOT_MODULES = ("matplotlib",)
ANNOTATION_MODULES = ("sqlalchemy", "alembic", "pycocotools")  # of the extra "serve", like the next
SERVE_MODULES = ("fastapi", "uvicorn", "pydantic", "multipart", *ANNOTATION_MODULES)
STORAGE_MODULES = ("fsspec",)  # of the extra "storage", like the next
PARQUET_MODULES = ("pyarrow",)
RAY_MODULES = ("ray", "pandas", *PARQUET_MODULES)  # of the extra "ray"; ray.data needs the last two
PHOTO_MODULES = ("matplotlib", "skimage", "sklearn")  # synthetic scenes are made of photographs that lie in these


def require(*modules: str, extra: str, needed_by: str) -> None:
    """Make sure that modules can be imported, without importing them: that takes seconds for some.

    Args:
        modules: Top-level names, as an import statement has them.
        extra: What brings them, of `[project.optional-dependencies]` in pyproject.toml.
        needed_by: What the user asked for, the subject of the message, such as "i2f train".

    Raises:
        MissingPackageError: some are not installed; the message names all of them and what installs them.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        *most, last = missing
        names = f"{', '.join(most)} and {last}, which are" if most else f"{last}, which is"
        raise MissingPackageError(
            f"{needed_by} needs {names} not installed: pip install 'inter2former-deploy[{extra}]'"
        )
