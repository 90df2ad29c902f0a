"""The weights that learn: low-rank adapters or the whole U-Net, their moving average, and their files."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realignkit.errors import DamagedError, ModelError, OptionError, OutputError
from realignkit.files import atomic_folder, atomic_write
from realignkit.pipelines.families import place
from realignkit.records import check_manifest, seal, sealed_notes, write_manifest
from realignkit.refl.model import Networks
from realignkit.refl.options import TrainingOptions
from realignkit.refl.refusals import ADAPTER, TEXT_ENCODERS
from realignkit.refl.seeds import seeded

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Where diffusers looks for adapters in a folder."""
MODEL_FOLDER = "model"
"""Where a run that trains the whole U-Net keeps the pipeline, for ``from_pretrained``."""


class Trainable:
    """Makes a pipeline's U-Net learn.

    Args:
        networks: whose U-Net; it gets adapters (``lora``) or thaws (``unet``).
        config: of the training.
        keep_base: keep the whole networks as they came, for :meth:`base`; of adapters they always are.

    Attributes:
        parameters: name -> float32 parameter, in a fixed order.
        average: their moving average, same order; None without.

    Raises:
        OptionError: no layer of the U-Net has a name in ``lora.targets``.
    """

    def __init__(self, networks: Networks, config: TrainingOptions, *, keep_base: bool = False) -> None:
        self.networks, self.config = networks, config
        unet = networks.unet
        if ADAPTER in getattr(unet, "peft_config", {}):  # of an earlier training
            unet.unload_lora()
        self._frozen: dict[str, Any] = {}
        learning = {"unet": unet}
        if config.train_text_encoder:
            learning |= {name: part for name in TEXT_ENCODERS if (part := getattr(networks.pipeline, name, None))}
        if config.trainable == "lora":
            self._add_adapters(unet)
        else:
            if keep_base:
                self._frozen = {name: copy.deepcopy(part) for name, part in learning.items()}
                for part in self._frozen.values():
                    place(part, networks.device, networks.dtype)
            for part in learning.values():
                part.requires_grad_(True)
        self.parameters = {
            (name if part is unet else f"{component}.{name}"): p
            for component, part in learning.items()
            for name, p in part.named_parameters()
            if p.requires_grad
        }
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()
        self.average: list[Tensor] | None = None
        if config.ema_decay is not None:
            self.average = [p.detach().clone() for p in self.parameters.values()]

    def _add_adapters(self, unet: Any) -> None:
        from peft import LoraConfig

        options = self.config.lora
        lora = LoraConfig(
            r=options.rank, lora_alpha=options.alpha or options.rank, target_modules=list(options.targets)
        )
        try:
            with seeded(self.config.seed, "adapters"):
                unet.add_adapter(lora, adapter_name=ADAPTER)
        except ValueError as error:
            raise OptionError(f"adapters cannot be added: {error}. Choose other lora.targets.") from error

    @property
    def _lora_scale(self) -> float:
        return (self.config.lora.alpha or self.config.lora.rank) / self.config.lora.rank

    @contextlib.contextmanager
    def base(self) -> Iterator[None]:
        """U-Net and text encoders as they came, for the while."""
        if self.config.trainable == "lora":
            self.networks.unet.disable_adapters()
            try:
                yield
            finally:
                self.networks.unet.enable_adapters()
            return
        networks, frozen = self.networks, dict(self._frozen)
        unet, texts = networks.unet, {name: getattr(networks.pipeline, name) for name in frozen if name != "unet"}
        networks.unet = frozen.pop("unet")
        for name, part in frozen.items():
            setattr(networks.pipeline, name, part)
        try:
            yield
        finally:
            networks.unet = unet
            for name, part in texts.items():
                setattr(networks.pipeline, name, part)

    @torch.no_grad()
    def update_average(self, iteration: int) -> None:
        """Move the average towards the weights; faster at first, so that it does not cling to where it began."""
        if self.average is None or self.config.ema_decay is None:
            return
        decay = min(self.config.ema_decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(self.average, [p.data for p in self.parameters.values()], 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the U-Net, for the while; nothing without an average."""
        if self.average is None:
            yield
            return
        learning = [p.data for p in self.parameters.values()]
        self._put(self.average)
        try:
            yield
        finally:
            self._put(learning)

    def _put(self, tensors: list[Tensor]) -> None:
        for parameter, tensor in zip(self.parameters.values(), tensors, strict=True):
            parameter.data = tensor

    def export(self, folder: Path, iteration: int) -> Path:
        """Write the averaged weights for use: adapters for ``load_lora_weights``, or a pipeline in ``model/``.

        With them go the iteration that they are of, and checksums.

        Raises:
            OutputError: they cannot be written; what was there before is untouched.
        """
        with self.averaged():
            if self.config.trainable == "unet":
                with atomic_folder(folder / MODEL_FOLDER) as new:
                    self.networks.pipeline.save_pretrained(new, safe_serialization=True)
                    write_manifest(new, {"iteration": iteration})
                return folder / MODEL_FOLDER
            return atomic_write(folder / LORA_FILE, seal(self._lora_bytes(), {"iteration": str(iteration)}))

    def _lora_bytes(self) -> bytes:
        from safetensors.torch import save

        # The scale goes into the up weights, so that every reader, told nothing of alpha, applies it.
        named = {
            _exported_name(name): (p * self._lora_scale if "lora_B" in name else p).detach().cpu().contiguous()
            for name, p in self.parameters.items()
        }
        return save(named, metadata={"format": "pt"})

    def exported(self, folder: Path) -> int:
        """The iteration of the weights that :meth:`export` wrote.

        Raises:
            DamagedError: they are missing, or not what was written.
        """
        lora = self.config.trainable == "lora"
        notes = sealed_notes(folder / LORA_FILE) if lora else check_manifest(folder / MODEL_FOLDER)
        try:
            return int(notes["iteration"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"the weights in {folder} do not say of which iteration they are") from error

    @torch.no_grad()
    def load_exported(self, folder: Path, iteration: int) -> None:
        """Put weights that :meth:`export` wrote of an iteration into the U-Net.

        Raises:
            OutputError: they are missing, damaged, or of another iteration.
        """
        from safetensors.torch import load_file

        if (exported := self.exported(folder)) != iteration:
            raise OutputError(
                f"the best weights, of iteration {iteration}, are no longer in {folder}: it has those of {exported}. "
                f"Train again."
            )
        lora = self.config.trainable == "lora"
        path = folder / (LORA_FILE if lora else f"{MODEL_FOLDER}/unet")
        try:
            tensors = load_file(path) if lora else _weights_in(path)
            for component in TEXT_ENCODERS if self.config.train_text_encoder else ():
                path = folder / MODEL_FOLDER / component
                if getattr(self.networks.pipeline, component, None) is not None:
                    tensors |= {f"{component}.{name}": tensor for name, tensor in _weights_in(path).items()}
            for name, parameter in self.parameters.items():
                key = _exported_name(name) if lora else name
                scale = 1 / self._lora_scale if lora and "lora_B" in name else 1.0
                parameter.data = (tensors[key].to(parameter.device) * scale).view_as(parameter)
        except Exception as error:  # safetensors has its own errors
            raise OutputError(f"{path} is missing or damaged ({error}). Train again.") from error

    @torch.no_grad()
    def check(self) -> None:
        """Refuse to go on with weights that are no numbers.

        Raises:
            ModelError: a weight is NaN or infinite.
        """
        for name, parameter in self.parameters.items():
            if not torch.isfinite(parameter).all():
                raise ModelError(
                    f"weight {name} became NaN or infinite. Resume from the last checkpoint with a lower learning rate."
                )


def _weights_in(folder: Path) -> dict[str, Tensor]:
    """All weights in a component's folder; large ones (SDXL's U-Net) are saved in several files."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def _exported_name(name: str) -> str:
    # peft's "…to_q.lora_A.<adapter>.weight" in diffusers' own spelling.
    return "unet." + name.replace(f".lora_A.{ADAPTER}.", ".lora.down.").replace(f".lora_B.{ADAPTER}.", ".lora.up.")
