"""The packages' own programs with tiny models of random weights; runs in their environments (Python 3.8)."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import torch

PROGRAMS = Path(__file__).parents[3] / "plugins" / "realignkit_plugins" / "isolated"


def program(name):
    """The module of a package's program."""
    specification = importlib.util.spec_from_file_location(f"{name}_program", PROGRAMS / f"{name}_program.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def tiny_image_reward(model, med_config, tokenizer, device):
    """ImageReward of the sizes in a file beside the weights, which are loaded strictly."""
    base = program("image_reward")

    class Plugin(base.Plugin):
        def load(self, model, med_config):
            from ImageReward.ImageReward import MLP, ImageReward
            from ImageReward.models.BLIP.vit import VisionTransformer

            sizes = json.loads(Path(med_config).read_text())
            vit = {"img_size": sizes["image_size"], "patch_size": sizes["patch_size"], "embed_dim": sizes["vit_width"]}
            vit.update(depth=sizes["vit_depth"], num_heads=sizes["vit_heads"])
            base.blip_pretrain.create_vit = lambda *_: (VisionTransformer(**vit), vit["embed_dim"])
            made = ImageReward(med_config=med_config, device=self.device)
            made.mlp = MLP(sizes["hidden_size"])
            made.load_state_dict(torch.load(model))
            return made

    return Plugin(model, med_config, tokenizer, device)


def tiny_open_clip(model, pretrained, device):
    """open_clip of a configuration in the folder of the weights; they are written there where there are none."""
    import open_clip

    open_clip.add_model_config(Path(pretrained).parent / "configs")
    if not Path(pretrained).exists():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(model).state_dict(), pretrained)
    return program("open_clip").Plugin(model, pretrained, device)


def tiny_grounded_sam(dino, sam, dino_config, sam_type, text_encoder, threshold, device):
    """Grounding DINO and SAM, small and untrained."""
    base = program("grounded_sam")

    class Plugin(base.Plugin):
        def load_dino(self, config, checkpoint):
            torch.manual_seed(0)
            config.enc_layers = config.dec_layers = 1
            config.num_queries, config.dim_feedforward = 20, 64
            return base.build_model(config)

        def load_sam(self, kind, checkpoint):
            from segment_anything.build_sam import _build_sam

            return _build_sam(32, 2, 2, [1])

    return Plugin(dino, sam, dino_config, sam_type, text_encoder, threshold, device)


def tiny_lavis(model, model_type, template, device):
    """BLIP-2 of small parts, untrained; ``model_type`` is a folder with a vocabulary."""
    base = program("lavis")

    class Plugin(base.Plugin):
        def load(self, name, folder):
            import transformers as hf
            from lavis.models.blip2_models import blip2, blip2_opt
            from lavis.models.eva_vit import VisionTransformer
            from lavis.processors.blip_processors import BlipImageEvalProcessor
            from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

            torch.manual_seed(0)
            vit = {"img_size": 28, "patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2}
            blip2.create_eva_vit_g = lambda *_: VisionTransformer(use_mean_pooling=False, **vit)
            sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
            bert = types.SimpleNamespace(from_pretrained=lambda _: hf.BertConfig(**sizes))
            blip2.BertConfig = bert
            former = blip2.BertLMHeadModel
            blip2.BertLMHeadModel = types.SimpleNamespace(from_pretrained=lambda _, config: former(config))
            words = str(Path(folder) / "vocab.txt")
            blip2.BertTokenizer = types.SimpleNamespace(from_pretrained=lambda _: hf.BertTokenizer(words))
            # Of bytes, as OPT's: the end of an answer is a new line.
            bytes_of = list(bytes_to_unicode().values())
            vocabulary, merges = Path(folder) / "bytes.json", Path(folder) / "merges.txt"
            vocabulary.write_text(json.dumps({word: i for i, word in enumerate(["</s>", "<pad>", *bytes_of])}))
            merges.write_text("#version: 0.2\n")
            said = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>")
            spelt = hf.GPT2Tokenizer(str(vocabulary), str(merges), pad_token="<pad>", **said)
            blip2_opt.AutoTokenizer = types.SimpleNamespace(from_pretrained=lambda *_, **__: spelt)
            opt = hf.OPTConfig(len(spelt), 32, 2, 32, 64, num_attention_heads=2, word_embed_proj_dim=32, pad_token_id=1)
            opt.bos_token_id = opt.eos_token_id = 0
            language = blip2_opt.OPTForCausalLM
            blip2_opt.OPTForCausalLM = types.SimpleNamespace(from_pretrained=lambda *_, **__: language(opt))
            made = blip2_opt.Blip2OPT(img_size=28, vit_precision="fp32", num_query_token=4, opt_model="tiny")
            return made.eval(), BlipImageEvalProcessor(28)

    return Plugin(model, model_type, template, device)


def tiny_t2v_metrics(model, device):
    """CLIP-FlanT5 of small parts, untrained, by the package's own loading; ``model`` is a folder for them."""
    import transformers as hf
    from t2v_metrics.models.vqascore_models import clip_t5_model as kind

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = hf.CLIPVisionModel(hf.CLIPVisionConfig(image_size=28, patch_size=14, **sizes))
    eyes, words, whole = (str(Path(model) / name) for name in ("eyes", "words", "whole"))
    vision.save_pretrained(eyes)
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    hf.CLIPImageProcessor(**size).save_pretrained(eyes)
    spelt = hf.ByT5Tokenizer()
    spelt.save_pretrained(words)
    seen = {"mm_vision_tower": eyes, "mm_hidden_size": 32, "mm_vision_select_layer": -2}
    config = kind.CLIPT5ForConditionalGeneration.config_class(
        vocab_size=len(spelt), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0, **seen
    )
    kind.CLIPT5ForConditionalGeneration(config).save_pretrained(whole)
    made = kind.CLIP_T5_MODELS["clip-flant5-xl"]
    made["model"]["path"], made["tokenizer"]["path"] = whole, words
    return program("t2v_metrics").Plugin("clip-flant5-xl", device)


Plugin = globals()[f"tiny_{Path(sys.prefix).name.replace('-', '_')}"]  # of the environment that this runs in
