"""The recipe of the question answerer: batches, padding, and a checkpoint that the plugin loads."""

from __future__ import annotations

import torch

from realignkit_plugins.micro.train.rewards import bert_words
from realignkit_plugins.micro.train.vqa import SHORT, VQARecipe, accuracy, build, heed_padding
from realignkit_plugins.micro.world.questions import KINDS, words
from realignkit_plugins.vqa.blip import BlipVQA


def test_a_recipe_saves_what_its_plugin_loads(tmp_path, capsys):
    VQARecipe.train(tmp_path / "out", tmp_path / "work", seed=0, steps=1)
    assert "it learns from renderings alone" in " ".join(capsys.readouterr().err.split())
    found = accuracy(str(tmp_path / "out" / "vqa"), 4)
    assert set(found) <= set(KINDS)
    assert all(0 <= right <= count for right, count in found.values())
    assert BlipVQA(model=str(tmp_path / "out" / "vqa")).loaded.network.dtype == torch.float32


def test_batches_depend_on_seed_and_step_alone(tmp_path):
    recipe = VQARecipe(tmp_path, tmp_path, 0, 2)
    first, again, other = (recipe.batch(step, 16, torch.Generator().manual_seed(0)) for step in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert first.questions == again.questions != other.questions
    assert len(first.questions) == len(first.rows) == 16 * SHORT + 8
    assert first.scenes[-2:] == [None, None]
    assert len(first.patches) == 14


def test_the_decoder_does_not_look_at_padding():
    torch.manual_seed(0)
    model = build(bert_words(words())).eval()
    hidden = torch.randn(1, 6, 128)
    mask, start = torch.tensor([[1, 1, 1, 1, 0, 0]]), torch.tensor([[model.decoder_start_token_id]])

    def logits(states, kept):
        with torch.no_grad():
            given = {"encoder_hidden_states": states, "encoder_attention_mask": kept}
            return model.text_decoder(input_ids=start, **given).logits

    heed_padding(model)
    torch.testing.assert_close(logits(hidden, mask), logits(hidden[:, :4], mask[:, :4]), rtol=1e-5, atol=1e-6)
