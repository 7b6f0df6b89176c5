"""Model families, a folder each. This registry loads their parts when they are asked for.

`interface` says what the runtime needs of a family, without torch. `graphs` and `gate` are for the exporter and need
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from inter2former_deploy.core.contract import GraphName
from inter2former_deploy.core.prompts import Floats, Frame, Image, Prediction, PromptState

FAMILIES = ("inter2former", "hrsam")


class Interface(Protocol):
    """The module `interface` of a family."""

    KEPT: tuple[str, ...]  # values that a saved encoding holds: inputs and outputs of the encoder

    PROMPTS: tuple[str, ...]  # inputs of the click graph that the prompt state gives

    @staticmethod
    def graph_tensors(config: Any, size: int) -> dict[GraphName, dict[str, Any]]:
        """Inputs and outputs of the three graphs, as manifest.json states them."""

    @staticmethod
    def make_frame(height: int, width: int, size: int) -> Frame:
        """Where an image lies in the model's square of `size` pixels."""

    @staticmethod
    def make_input(image: Image, frame: Any) -> Floats:
        """An image, uint8 RGB `[H, W, 3]`, as the encoder takes it."""

    @staticmethod
    def make_prompts(size: int) -> PromptState[Any]:
        """The prompt state before any prompt."""

    @staticmethod
    def check_inputs(prompts: Mapping[str, NDArray[Any]]) -> None:
        """Refuse what the prompt state gives, where a graph would compute something that means nothing."""

    @staticmethod
    def read_prediction(outputs: Mapping[str, NDArray[Any]]) -> Prediction:
        """What the click graph gave, by name."""

    @staticmethod
    def preprocessing() -> dict[str, Any]:
        """What callers do to an image."""

    @staticmethod
    def prompts() -> dict[str, Any]:
        """What callers do with clicks."""

    @staticmethod
    def postprocessing() -> dict[str, Any]:
        """What callers make of the results."""


class Graphs(Protocol):
    """The module `graphs` of a family."""

    MODEL: Any  # the nn.Module class of the whole model, whose only argument is the configuration
    MODULES: Mapping[GraphName, Any]  # nn.Module classes whose only argument is the model
    # The module's last results, which become inner values for the gate; names of sizes that differ from run to run.
    INNER: Mapping[GraphName, Mapping[str, tuple[str, ...]]]
    DIFFERENCES: tuple[str, ...]  # deliberate ones from the release
    ENCODER: str  # what the names of the encoder's entries in the state dict begin with

    @staticmethod
    def predict(model: Any, features: Any, prompts: Mapping[str, NDArray[Any]]) -> Prediction:
        """What the modules make of the features that the model's `encode` gave, and of the prompt state's inputs."""


def interface(family: str) -> Interface:
    """What is known of a family without torch.

    Raises:
        ValueError: There is no such family.
    """
    return cast(Interface, part(family, "interface"))


def graphs(family: str) -> Graphs:
    """The graphs of a family as PyTorch modules.

    Raises:
        ValueError: There is no such family.
    """
    return cast(Graphs, part(family, "graphs"))


def gate(family: str) -> Any:
    """How graphs of a family are compared with PyTorch: `check_parity`.

    Raises:
        ValueError: There is no such family.
    """
    return part(family, "gate")


def part(family: str, name: str) -> Any:
    """A module of a family, e.g. `part("hrsam", "config")`.

    Raises:
        ValueError: There is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"the family must be one of {', '.join(FAMILIES)}, got {family!r}")
    return import_module(f"{__name__}.{family}.{name}")
