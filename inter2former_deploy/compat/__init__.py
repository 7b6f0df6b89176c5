"""Interfaces of other packages over the runtime, so that code written for them changes one import.

Example:
    from inter2former_deploy.compat import SamPredictor, sam_model_registry  # was: from segment_anything import ...
    predictor = SamPredictor(sam_model_registry["vit_b"](checkpoint="bundle"))
"""

from inter2former_deploy.compat.sam import SamPredictor, sam_model_registry

__all__ = ["SamPredictor", "sam_model_registry"]
