"""Models to score, from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from inter2former_deploy.core.threads import available_cpus
from inter2former_deploy.families.config import load_config
from inter2former_deploy.runtime import Segmenter

from .reference import ReferenceSegmenter


def open_bundle_model(bundle: Path, decoder: str | None, threads: int | None, custom_ops: bool) -> Segmenter:
    """An exported bundle."""
    return Segmenter(bundle, decoder=decoder, num_threads=threads, custom_ops=custom_ops)


def open_reference_models(
    checkpoint: Path | None,
    config: str | None,
    edge_rule: str | None,
    sizes: Sequence[int],
    threads: int | None,
    report: Callable[[str], None] = lambda _: None,
) -> list[ReferenceSegmenter]:
    """The reference modules of a checkpoint at each size; none without a checkpoint. Notes on its file are reported.

    Raises:
        CheckpointError: the checkpoint is unreadable or does not fit its configuration.
        ValueError: a size is no multiple of 16, or the configuration unknown.
    """
    if checkpoint is None:
        return []
    import torch

    from inter2former_deploy.families.checkpoint import build_model, load_checkpoint

    torch.set_num_threads(threads or available_cpus())
    for size in sizes:
        if size < 16 or size % 16:
            raise ValueError(f"the model resolution must be a multiple of 16, got {size}")
    loaded = load_checkpoint(checkpoint, load_config(config) if config else None)
    for note in loaded.notes:
        report(f"{checkpoint.name}: {note}")
    if edge_rule and not hasattr(loaded.config.decoder, "edge_rule"):
        raise ValueError(f"--edge-rule is for Inter2Former's decoder; {checkpoint} is of {loaded.config.family}")
    changed = loaded.config.with_decoder(edge_rule=edge_rule) if edge_rule else loaded.config
    model = build_model(changed, loaded.state_dict)
    return [ReferenceSegmenter(model, size) for size in sizes]
