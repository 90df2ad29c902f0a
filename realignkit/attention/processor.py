"""Modulated attention inside a diffusers U-Net or PixArt transformer: installed by a context manager, gone afterwards.

::

    with modulate(pipeline.unet, regions, config, timesteps=pipeline.scheduler.timesteps):
        pipeline(...)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from realignkit.attention.config import ModulationConfig
from realignkit.attention.inputs import attention_inputs
from realignkit.attention.joint_processor import JointAttention, JointAttnProcessor
from realignkit.attention.modulation import Schedule
from realignkit.attention.regions import Regions
from realignkit.attention.state import ModulatedAttention
from realignkit.errors import ModelError
from realignkit.pipelines.families import (
    alone,
    attention_processors,
    family_of_network,
    set_attention_processors,
    unwrapped,
)
from realignkit.pipelines.refusals import why_not_replaced


@contextmanager
def modulate(
    unet: Any,
    regions: Sequence[Regions],
    config: ModulationConfig | None = None,
    *,
    timesteps: Sequence[float] | Tensor | Schedule | Callable[[], Schedule] | None = None,
    num_inference_steps: int | None = None,
    num_images_per_prompt: int = 1,
    train_timesteps: int = 1000,
) -> Iterator[ModulatedAttention]:
    """Modulate the attention of ``unet`` while the context lasts, in the thread that enters it.

    Other threads that call it compute as they did before. Called in this one, ``unet`` (``UNet2DConditionModel``
    or a transformer of one of :data:`~realignkit.pipelines.families.FAMILIES`) takes ``len(regions) *
    num_images_per_prompt`` samples, all conditional, or twice as many under classifier-free guidance: unconditional
    where the family has them; those are left alone. Families that guide with calls of their own begin each step with
    the conditional one.

    What is compiled runs uncompiled meanwhile: compiled code may not notice that its attention has changed.

    Args:
        unet: the network. Its attention processors come back when the context ends, however it ends.
        regions: one per prompt.
        config: how to modulate.
        timesteps: those that run, one for each call, or a :class:`~realignkit.attention.modulation.Schedule`, which
            also knows steps of several calls, or what gives one when the first call has come; tells which step a call
            belongs to.
        num_inference_steps: instead of ``timesteps``, count the calls (one a step).
        num_images_per_prompt: neighbouring samples that share a prompt.
        train_timesteps: ``T_train`` of ``lambda_t``.

    Raises:
        ModelError: the network has attention of another kind (IP-Adapter, added keys …), is called with a batch
            that does not fit, computes without its processors (traced, say), or was called by other threads alone.
        ValueError: neither ``timesteps`` nor ``num_inference_steps`` is given, and ``share`` depends on it.
    """
    config = config or ModulationConfig()
    if timesteps is None and num_inference_steps is None and 0 < config.share < 1:
        raise ValueError("pass timesteps (or num_inference_steps): share is a share of them")
    unet = unwrapped(unet)
    if not (timesteps is None or isinstance(timesteps, Schedule) or callable(timesteps)):
        timesteps = Schedule.of_timesteps(timesteps, train_timesteps)
    steps = timesteps.count if isinstance(timesteps, Schedule) else num_inference_steps
    family = family_of_network(unet)
    shared = (tuple(regions), config, timesteps, steps, num_images_per_prompt, train_timesteps)
    state = ModulatedAttention(*shared)
    if family is not None and family.joint is not None:
        state = JointAttention(*shared, joint=family.joint, patch=family.patch)
    else:  # U-Nets take (sample, timestep, text), PixArt's transformer (sample, text, timestep)
        state.timestep_at = list(inspect.signature(type(unet).forward).parameters).index("timestep") - 1
    with alone(unet), ExitStack() as after:
        if reason := why_not_replaced(unet):
            raise ModelError(reason)
        before = attention_processors(unet)
        after.callback(unet.register_forward_pre_hook(state.observe, with_kwargs=True).remove)
        after.callback(unet.register_forward_hook(state.confirm).remove)
        after.callback(set_attention_processors, unet, before)
        set_attention_processors(unet, {name: _processor(state, name, each) for name, each in before.items()})
        with torch.compiler.set_stance("force_eager"):
            yield state
    if state.foreign_calls and state.step < 0:
        raise ModelError(
            "the network was called by another thread than the one that modulates it, so nothing was modulated: enter "
            "modulate in the thread that calls the pipeline."
        )


def _processor(state: ModulatedAttention, name: str, original: Any) -> Any:
    if isinstance(state, JointAttention):
        return JointAttnProcessor(state, name, original)
    return ModulatedAttnProcessor(state, original)


class ModulatedAttnProcessor:
    """One attention layer: the original processor wherever nothing changes, modulated attention elsewhere."""

    def __init__(self, state: ModulatedAttention, original: Any) -> None:
        self.state = state
        self.original = original
        # Sliced attention takes no temb.
        self.temb = "temb" in inspect.signature(type(original).__call__).parameters

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute the layer: what diffusers' plain processors take and return, in their shapes."""
        cross = encoder_hidden_states is not None
        foreign = self.state.foreign
        self.state.attended |= not foreign
        if foreign or not self.state.changes(cross):
            rest = (temb,) if self.temb else ()
            out: Tensor = self.original(attn, hidden_states, encoder_hidden_states, attention_mask, *rest)
            return out
        residual, shape = hidden_states, hidden_states.shape
        inputs = attention_inputs(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        query, value = inputs.query, attn.to_v(inputs.context).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        states = self.state.attend(query, inputs.key, value, cross=cross, size=inputs.size, bias=inputs.bias)
        out = attn.to_out[1](attn.to_out[0](states.transpose(1, 2).flatten(2).to(query.dtype)))
        if len(shape) == 4:
            out = out.transpose(-1, -2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        out = out / attn.rescale_output_factor
        return out
