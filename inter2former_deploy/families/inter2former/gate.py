"""How exported graphs of Inter2Former are compared with PyTorch."""

from inter2former_deploy.exporters.parity import check_parity as check_parity
