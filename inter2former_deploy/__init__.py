"""Inter2Former on CPUs: reference modules, ONNX export, onnxruntime operators and a runtime without PyTorch.

Importing this package loads none of its heavy dependencies; import what you need from
`inter2former_deploy.runtime` (numpy, onnxruntime, opencv) or `inter2former_deploy.exporters` (torch, onnx).
"""

import os as _os
from importlib.metadata import distribution as _distribution
from pathlib import Path as _Path

# onnxruntime from 1.29 on makes an identifier of the device and sends events to its maker, as soon as it is imported,
# unless this is set before (findings/onnxruntime_telemetry_on_import.sh). Pictures are other people's: nothing is to
# leave the machine of which they know nothing. Whoever wants it sets the variable to 0.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_installed = _distribution("inter2former-deploy")
__version__ = _installed.version

# In a checkout, Python finds this folder before the installed package, but here the subpackages `exporters` and
# `runtime` and the operator library are missing: the installation puts them in their places. All modules then come from
# there, so that none is loaded twice and `python` does what `i2f` does. (An editable install has its own way.)
_folder = _Path(str(_installed.locate_file("inter2former_deploy")))
if not (_Path(__file__).parent / "runtime").is_dir() and (_folder / "runtime").is_dir():
    __path__ = [str(_folder)]
