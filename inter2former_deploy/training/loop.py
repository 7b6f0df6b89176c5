"""The training loop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from inter2former_deploy.core.clicks import IGNORED
from inter2former_deploy.core.masks import iou
from inter2former_deploy.data import Dataset
from inter2former_deploy.families.checkpoint import build_model, load_initial, save_checkpoint
from inter2former_deploy.families.config import Config
from inter2former_deploy.families.inter2former.modules.losses import jaccard_loss, training_loss
from inter2former_deploy.families.inter2former.modules.model import Inter2Former

from . import processes as parallel
from .auxiliary import Auxiliary
from .batches import Batch, Batches
from .config import TrainConfig
from .experts import ExpertLoad
from .fast import fast_forms, prepare
from .interaction import simulate
from .optimizers import Optimizers
from .state import LOG_FILE, PLOT_FILE, Average, Log, load_state, plot_log, save_state

WEIGHTS_FILE = "weights.safetensors"


class Trainer:
    """Model, optimiser and averaged weights, and one step of them; of Inter2Former, while other families extend it.

    Args:
        model_config: what to train.
        config: how.
        device: where.
        teacher_channels: of a teacher's features to imitate; 0 for none.
        initial: weights to start from; entries that the model lacks, or has in another shape, are left out.
    """

    def __init__(
        self,
        model_config: Any,
        config: TrainConfig,
        *,
        device: str = "cpu",
        teacher_channels: int = 0,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, torch.device(device)
        self.model = self._make_model(model_config, teacher_channels)
        own = self.model.state_dict()
        fitting = {k: v for k, v in (initial or {}).items() if k in own and own[k].shape == v.shape}
        self.model.load_state_dict(fitting, strict=False)
        prepare(self.model.to(self.device))
        self.heads = self._make_heads(model_config, teacher_channels).to(self.device)
        self.optimizers = Optimizers(self.model, list(self.heads.values()), config)
        self.average = Average(self.model, config.ema)
        self.step = 0
        self.experts = ExpertLoad(self.model, training=True)

    def _make_model(self, model_config: Any, teacher_channels: int) -> Any:
        """The model with the weights that training starts from."""
        model = Inter2Former(model_config)
        initialise(model, self.config.stages[0].size)
        return model

    def _make_heads(self, model_config: Any, teacher_channels: int) -> nn.ModuleDict:
        """Modules trained beside the model that are not part of the result.

        A linear map lets the embedding have other channels than the teacher's.
        """
        dim = model_config.decoder.dim
        projection = nn.Linear(dim, teacher_channels) if teacher_channels else nn.Identity()
        return nn.ModuleDict({"projection": projection, "auxiliary": Auxiliary(dim)})

    @property
    def auxiliary(self) -> Auxiliary:
        """The losses on short ways."""
        return cast(Auxiliary, self.heads["auxiliary"])

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, a constant part, half a cosine."""
        c = self.config
        start = max(c.warmup, c.steps * (1 - c.decay_share))
        done = min(max(0.0, (step - start) / max(1.0, c.steps - start)), 1.0)
        decayed = c.final_rate + (1 - c.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
        return c.learning_rate * min(decayed, (step + 1) / max(1, c.warmup))

    def train_step(self, batch: Batch) -> dict[str, Any]:
        """One step on a batch; returns its losses, IoU, gradient norm and expert load."""
        with fast_forms(bf16=self.config.bf16):
            return self._train_step(batch)

    def _train_step(self, batch: Batch) -> dict[str, Any]:
        loss, entry = self._losses(batch)
        self.optimizers.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        parallel.average_gradients(self.optimizers.parameters)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if torch.isfinite(norm):  # a step into nowhere is left out, and shows in the log
            self.optimizers.step(self.learning_rate(self.step))
        self.step += 1
        self.average.update(self.model, self.step)
        return entry | {"gradient": norm.item()}

    def _losses(self, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        """What a step makes smaller, and what to log of it."""
        images, segments = batch.images.to(self.device), batch.segments.to(self.device)
        with self.autocast():
            embedding = self.model.backbone(images).float()
        border = self.auxiliary.border_loss(embedding, segments)
        likeness = self.auxiliary.likeness_loss(embedding, segments)
        loss = self.config.auxiliary * (border + likeness)
        entry = {"border": border.item(), "likeness": likeness.item()}
        distillation = self._distillation(embedding, batch.teacher)
        if distillation is not None:
            loss = loss + self.config.distillation * distillation
            entry["distillation"] = distillation.item()
        if not self.config.stage(self.step).encoder_only:
            decoded, decoder_entry = self._decoder_loss(batch, images, embedding)
            loss = loss + decoded
            entry |= decoder_entry
        return loss, entry

    def _rngs(self, pictures: int, targets: int) -> list[np.random.Generator]:
        """One for the clicks on each sample of this step: a resumed run repeats them, and so do several processes."""
        samples = (parallel.count() * np.arange(pictures)[:, None] + parallel.rank()) * targets + np.arange(targets)
        return [np.random.default_rng([self.config.seed, self.step, 1, sample]) for sample in samples.ravel().tolist()]

    def _decoder_loss(self, batch: Batch, images: Tensor, embedding: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The losses after simulated clicks, and what to log of them."""
        c = self.config
        targets = batch.masks.shape[1]
        masks = batch.masks.flatten(0, 1)  # [B*T, S, S]
        rngs = self._rngs(len(images), targets)
        maps = self.model.edge_detector.canny_maps(images)  # comparisons of neighbours: never in bf16
        maps = maps.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            edges = self.model.edge_detector.features(maps)
        owner = torch.arange(len(images), device=self.device).repeat_interleave(targets)
        labels = torch.from_numpy(simulate(masks.numpy(), self._predictor(embedding, edges, owner), rngs, c))
        labels = labels.to(self.device)

        self.model.train()
        tokens, quantization = self.model.neck.training_forward(embedding[owner], labels)
        with self.autocast():
            logits, low_res = self.model.decode_head.training_forward(tokens, [e[owner] for e in edges])
        terms = training_loss(logits.float(), low_res.float(), masks[:, None].to(self.device), quantization)
        jaccard = jaccard_loss(logits.float(), masks[:, None].to(self.device)).mean()
        straight = self.auxiliary.mask_loss(tokens, masks.to(self.device))
        predicted = (logits[:, 0] > 0).cpu().numpy()
        return terms.total + c.jaccard * jaccard + c.auxiliary * straight, {
            "full": terms.full_res.item(),
            "low": terms.low_res.item(),
            "jaccard": jaccard.item(),
            "quantization": terms.quantization.item(),
            "straight": straight.item(),
            "iou": float(np.mean([iou(p, m, m != IGNORED) for p, m in zip(predicted, masks.numpy(), strict=True)])),
            "load": self.experts.take(),
        }

    def autocast(self) -> torch.autocast:
        """bf16 for encoder, edge network and upsampling; the neck's codes and routes are decided in float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def _predictor(self, embedding: Tensor, edges: Sequence[Tensor], owner: Tensor) -> Any:
        embedding, edges = embedding.detach(), [e.detach() for e in edges]

        def predict(labels: NDArray[np.uint8], samples: list[int]) -> NDArray[np.bool_]:
            pictures = owner[samples]
            self.model.eval()
            with torch.no_grad():
                tokens, _ = self.model.neck(embedding[pictures], torch.from_numpy(labels).to(self.device))
                with self.autocast():
                    logits = self.model.decode_head(tokens, [e[pictures] for e in edges]).logits
            return cast(NDArray[np.bool_], (logits[:, 0] > 0).cpu().numpy())

        return predict

    def _distillation(self, embedding: Tensor, teacher: Tensor | None) -> Tensor | None:
        """Mean squared error to the teacher's features, over the pictures that have them."""
        if teacher is None:
            return None
        teacher = teacher.to(self.device)
        has = ~teacher.flatten(1).isnan().any(1)
        student = self.heads["projection"](embedding[has].permute(0, 2, 3, 1))
        return F.mse_loss(student, teacher[has].permute(0, 2, 3, 1))

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs; random choices follow from seed and step."""
        return {
            "step": self.step,
            "model_config": self.model.config.to_dict(),
            "config": asdict(self.config),
            "model": self.model.state_dict(),
            "average": self.average.weights,
            "heads": self.heads.state_dict(),
            "optimizers": self.optimizers.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continues from `state`.

        Raises:
            ValueError: the state is of another model configuration.
        """
        if state["model_config"] != self.model.config.to_dict():
            raise ValueError("the saved state is of another model configuration; choose another output folder")
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.weights = {k: v.to(self.device) for k, v in state["average"].items()}
        self.heads.load_state_dict(state["heads"])
        self.optimizers.load_state_dict(state["optimizers"])


def trainer_of(family: str) -> type[Trainer]:
    """What trains models of a family."""
    if family == "hrsam":
        from .hrsam import HRSAMTrainer

        return HRSAMTrainer
    return Trainer


def train(
    model_config: Config,
    config: TrainConfig,
    out: Path,
    *,
    datasets: Sequence[Dataset] = (),
    synthetic: float = 0.0,
    composites: float = 0.5,
    teacher: Path | None = None,
    initial: Path | None = None,
    device: str = "cpu",
    processes: int = 1,
    workers: int = 1,
    save_every: float = 180.0,
    log_every: int = 20,
    minutes: float = math.inf,
    report: Callable[[str], None] = print,
) -> Path | None:
    """Trains a model, or goes on where an earlier call with the same folder ended.

    Args:
        model_config: what to train.
        config: how. A resumed run may have other numbers than before.
        out: folder of state, log, plot, and weights so far.
        datasets: real pictures and composites; none for synthetic scenes alone.
        synthetic: share of synthetic pictures beside others.
        composites: share of composites among these others, when there are real pictures, too.
        teacher: folder of a teacher's features (`Batches`), for distillation.
        initial: checkpoint to start from, of this or a similar configuration (`Trainer`).
        device: of torch.
        processes: that share the pictures of every step and the threads of torch, on a CPU. The log tells of the first
            one's pictures.
        workers: processes that prepare pictures, for each of them.
        save_every: seconds between saved states: what a kill can cost.
        log_every: steps between lines of the log.
        minutes: ends the call after this time, with its state saved, to be resumed.
        report: takes lines of progress.

    Returns:
        The weights' file (float16 safetensors of the averaged weights) when all steps are done, else `None`.

    Raises:
        ValueError: the processes cannot share the pictures of a step alike, or the device; or the state in the folder
            is of another model configuration.
    """
    uneven = [str(stage.batch) for stage in config.stages if stage.batch % processes]
    if uneven:
        raise ValueError(
            f"{processes} processes cannot share {', '.join(dict.fromkeys(uneven))} pictures a step alike: "
            f"give every stage a multiple of {processes} pictures"
        )
    if processes > 1 and device != "cpu":
        raise ValueError(f"several processes share the cores of a CPU, not a device {device!r}")
    out.mkdir(parents=True, exist_ok=True)
    batches = Batches(config, datasets, synthetic=synthetic, composites=composites, teacher=teacher)
    channels = batches.teacher_channels
    run = _Run(model_config, out, batches, channels, initial, device, workers, save_every, log_every, minutes, report)
    if processes > 1:
        parallel.run_together(processes, run.go_on)
    else:
        run.go_on()
    state = load_state(out)
    return out / WEIGHTS_FILE if state and state["step"] >= config.steps else None


@dataclass(frozen=True)
class _Run:
    """What `train` was asked for."""

    model_config: Config
    out: Path
    batches: Batches
    teacher_channels: int
    initial: Path | None
    device: str
    workers: int
    save_every: float
    log_every: int
    minutes: float
    report: Callable[[str], None]

    def go_on(self) -> None:
        """Trains until all steps are done, time is up or an interrupt comes; of several processes, each calls it."""
        config, first_process = self.batches.config, parallel.rank() == 0
        state = load_state(self.out)
        initial: Mapping[str, Tensor] | None = None
        notes: tuple[str, ...] = ()
        if self.initial is not None and state is None:
            initial, notes = load_initial(self.initial, self.model_config.family)
        trainer = trainer_of(self.model_config.family)(
            self.model_config,
            config,
            device=self.device,
            teacher_channels=self.teacher_channels,
            initial=initial,
        )
        if first_process:
            for note in notes:
                self.report(f"{self.initial}: {note}")
        if state is not None:
            trainer.load(state)
            if first_process:
                self.report(f"resumed at step {trainer.step}")
        log = Log(self.out / LOG_FILE, from_step=trainer.step) if first_process else None
        start = saved = time.monotonic()
        first, entries = trainer.step, []
        loader = torch.utils.data.DataLoader(
            self.batches.part(parallel.rank(), parallel.count()),
            sampler=range(first, config.steps),
            batch_size=None,
            num_workers=self.workers,
            worker_init_fn=_start_worker,
        )
        interrupts: list[int] = []
        with parallel.handling_interrupts(interrupts.append):
            for batch in loader:
                entries.append(trainer.train_step(batch))
                now = time.monotonic()
                last = trainer.step == config.steps
                stop = parallel.any_of_them(bool(interrupts) or now - start > 60 * self.minutes)
                if trainer.step % self.log_every == 0 or last:
                    if log:
                        mean, rate = _mean(entries), trainer.learning_rate(trainer.step)
                        log.write(step=trainer.step, rate=rate, seconds=now - start, **mean)
                        left = (now - start) / (trainer.step - first) * (config.steps - trainer.step)
                        self.report(f"step {trainer.step}/{config.steps}  {_summary(mean)}  {left / 60:.0f} min left")
                    entries = []
                if first_process and (now - saved > self.save_every or last or stop):
                    save_state(self.out, trainer.state())
                    export_weights(trainer, self.out / WEIGHTS_FILE)
                    saved = now
                if stop:
                    break
        if first_process:
            if trainer.step < config.steps:
                self.report(f"stopped at step {trainer.step}; the same command goes on")
            plot_log(self.out / LOG_FILE, self.out / PLOT_FILE)


def export_weights(trainer: Trainer, path: Path) -> None:
    """Writes the averaged weights as safetensors in half precision."""
    model = build_model(trainer.model.config, trainer.average.weights)
    save_checkpoint(model, path, dtype=torch.float16)


def initialise(model: Inter2Former, size: int) -> None:
    """Starting weights where PyTorch's own are not good enough.

    Args:
        model: Of Inter2Former.
        size: of the training pictures.
    """
    neck, edge_detector = (getattr(model, n) for n in ("neck", "edge_detector"))
    initialise_encoder(model.backbone)
    # A click must stand out from the image embedding (variance 1) after four convolutions.
    for module in neck.ref_conv.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    # Every Canny map has length 1 over the image: its values are about 1 / size. The first convolution must lift them
    # to about 1, and its bias must not drown them.
    with torch.no_grad():
        edge_detector.conv1.weight *= size
        edge_detector.conv1.bias.zero_()


def initialise_encoder(backbone: nn.Module) -> None:
    """Starting weights of an image encoder, but for its state-space modules."""
    nn.init.trunc_normal_(cast(Tensor, backbone.pos_embed), std=0.02)
    with torch.no_grad():
        project = backbone.get_submodule("patch_embed.proj")
        weight = project.get_parameter("weight")
        weight.copy_(_cosines(len(weight), weight.shape[-1]))
        project.get_parameter("bias").zero_()
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "padding") and isinstance(module.padding, nn.Parameter):
            nn.init.trunc_normal_(module.padding, std=0.02)


def _cosines(channels: int, patch: int) -> Tensor:
    """The lowest frequencies of a patch's cosine transform, colour by colour: the starting patch projection.

    A token so starts with its patch's colours, slopes and coarse texture; higher frequencies are raised, since their
    amplitudes are lower in photographs.

    Returns:
        [channels, 3, patch, patch].
    """
    at = (torch.arange(patch) + 0.5) * math.pi / patch
    frequencies = sorted(((u, v) for u in range(patch) for v in range(patch)), key=lambda f: (f[0] ** 2 + f[1] ** 2, f))
    weight = torch.zeros(channels, 3, patch, patch)
    for channel in range(channels):
        u, v = frequencies[channel // 3]
        wave = torch.outer(torch.cos(u * at), torch.cos(v * at))
        weight[channel, channel % 3] = wave / wave.norm() / patch * (1 + math.hypot(u, v))
    return weight


def _start_worker(_: int) -> None:
    cv2.setNumThreads(1)  # the cores are the step's
    for interrupt in parallel.INTERRUPTS:  # they reach the whole group; the step must not miss its pictures for them
        signal.signal(interrupt, signal.SIG_IGN)


def _mean(entries: list[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: np.mean([e[name] for e in entries if name in e], 0).tolist() for name in names}


def _summary(mean: dict[str, Any]) -> str:
    load = [f"experts {min(mean['load']):.1%}-{max(mean['load']):.1%}"] if "load" in mean else []
    return "  ".join([f"{name} {value:.3f}" for name, value in mean.items() if name != "load"] + load)
