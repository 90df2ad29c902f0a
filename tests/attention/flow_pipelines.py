"""Tiny pipelines of flow transformers, of the real classes, with random weights and tokenizers of a few words."""

from __future__ import annotations

from typing import Any

from tests.attention.chat_models import mistral3, qwen3, qwen_tokenizer, qwen_vl
from tests.attention.pixart import t5_tokenizer
from tests.small_pipelines import LETTERS, MERGES, text_config

LENGTH = 24
"""Of CLIP's tokens."""


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    words = [*LETTERS, *(f"{c}</w>" for c in LETTERS), *(m.replace(" ", "") for m in MERGES)]
    vocab = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    merges = [tuple(merge.split()) for merge in MERGES]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def flow_vae(channels: int = 4, **config: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.06,
        **config,
    ).eval()


def t5_encoder(tokenizer: Any, width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return T5EncoderModel(config).eval()


def attentive(network: Any) -> Any:
    """Untrained, a network hardly looks at the text, and gates leave attention out."""
    import torch

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                parameter.mul_(3 if ".att" in name else 2)
    return network


def sd3_transformer(**config: Any) -> Any:
    """Two joint blocks, the first with a second attention of image tokens alone, as in 3.5 medium."""
    import torch
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 24,
        "pos_embed_max_size": 16,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    }
    return attentive(SD3Transformer2DModel(**{**settings, **config}).eval())


def sd3_pipeline(*, t5: bool = True, shift: float = 3.0, **scheduler: Any) -> Any:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(1)
    clip, words = clip_tokenizer(), t5_tokenizer()
    widths = (16, 8)
    first, second = (CLIPTextModelWithProjection(text_config(clip, width)).eval() for width in widths)
    pipeline = StableDiffusion3Pipeline(
        transformer=sd3_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift, **scheduler),
        vae=flow_vae(),
        text_encoder=first,
        tokenizer=clip,
        text_encoder_2=second,
        tokenizer_2=clip,
        text_encoder_3=t5_encoder(words, 32) if t5 else None,
        tokenizer_3=words if t5 else None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def flux_transformer(*, distilled: bool = True) -> Any:
    """One double block and two single ones, with rotary embeddings."""
    import torch
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return attentive(
        FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=distilled,
            axes_dims_rope=(4, 6, 6),
        ).eval()
    )


def flux_pipeline(*, distilled: bool = True) -> Any:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(1)
    clip, words = clip_tokenizer(), t5_tokenizer()
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=distilled),
        vae=flow_vae(),
        text_encoder=CLIPTextModel(text_config(clip, 16)).eval(),
        tokenizer=clip,
        text_encoder_2=t5_encoder(words, 32),
        tokenizer_2=words,
        transformer=flux_transformer(distilled=distilled),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# --- with a language model for the text -------------------------------------------------------------------------------


def flux2_transformer(*, distilled: bool = False) -> Any:
    """One double block and two single ones, whose projections are fused."""
    import torch
    from diffusers import Flux2Transformer2DModel

    torch.manual_seed(0)
    return attentive(
        Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=distilled,
        ).eval()
    )


def flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()


def flux2_pipeline(*, distilled: bool = False) -> Any:
    """FLUX.2 [klein]: Qwen3, of which layers 9, 18 and 27 are read."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    torch.manual_seed(1)
    tokenizer = qwen_tokenizer()
    pipeline = Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=qwen3(tokenizer, 8, 27),
        tokenizer=tokenizer,
        transformer=flux2_transformer(),
        is_distilled=distilled,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def flux2_dev_pipeline(**tokenizer_options: Any) -> Any:
    """FLUX.2 [dev]: Mistral, of which layers 10, 20 and 30 are read. Without its processor, which needs torchvision."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline

    torch.manual_seed(1)
    tokenizer = qwen_tokenizer(**tokenizer_options)
    pipeline = Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=mistral3(tokenizer, 8, 30),
        tokenizer=tokenizer,
        transformer=flux2_transformer(distilled=True),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def qwen_image_transformer() -> Any:
    import torch
    from diffusers import QwenImageTransformer2DModel

    torch.manual_seed(0)
    return attentive(
        QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
        ).eval()
    )


def qwen_image_pipeline(**tokenizer_options: Any) -> Any:
    """Its VAE is one of videos, its instruction the published one."""
    import torch
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline

    torch.manual_seed(1)
    tokenizer = qwen_tokenizer(**tokenizer_options)
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.5, 1.0, 2.0, 1.2],
    )
    pipeline = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae.eval(),
        text_encoder=qwen_vl(tokenizer, 16, 2),
        tokenizer=tokenizer,
        transformer=qwen_image_transformer(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def z_image_transformer() -> Any:
    """A layer of image tokens alone, one of text tokens alone, and two of both."""
    import torch
    from diffusers import ZImageTransformer2DModel

    torch.manual_seed(0)
    return attentive(
        ZImageTransformer2DModel(
            in_channels=8,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 6, 6],
            axes_lens=[600, 32, 32],
        ).eval()
    )


def z_image_pipeline(**tokenizer_options: Any) -> Any:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

    torch.manual_seed(1)
    tokenizer = qwen_tokenizer(**tokenizer_options)
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flow_vae(channels=8),
        text_encoder=qwen3(tokenizer, 16, 3, head=False),
        tokenizer=tokenizer,
        transformer=z_image_transformer(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
