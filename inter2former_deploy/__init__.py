"""Inter2Former on CPUs: reference modules, ONNX export, onnxruntime operators and a runtime without PyTorch.

Importing this package loads none of its heavy dependencies; import what you need from
`inter2former_deploy.runtime` (numpy, onnxruntime, opencv) or `inter2former_deploy.exporters` (torch, onnx).
"""

from importlib.metadata import version

__version__ = version("inter2former-deploy")
