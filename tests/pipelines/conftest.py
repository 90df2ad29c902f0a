from tests.small_pipelines import (
    make_pipeline,
    make_unet,
    pipeline,
    sd_pipeline,
    sdxl_pipeline,
    tokenizer,
    word_tokenizer,
)

__all__ = ["make_pipeline", "make_unet", "pipeline", "sd_pipeline", "sdxl_pipeline", "tokenizer", "word_tokenizer"]
