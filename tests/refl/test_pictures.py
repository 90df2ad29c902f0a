"""Folders of rated pictures, the model's own or people's."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from realignkit.errors import DamagedError, OptionError, OutputError
from realignkit.refl.pictures import RatedPictures
from tests.refl.rewards import Blind

RANKS = {"0.png": ("a red book", 2), "1.png": ("a red book", 1), "2.png": ("a pen", 1), "3.png": ("a pen", 3)}
LEARN = {"algorithm": "dpo", "validation.every": 0, "iterations": 1}


@pytest.fixture
def ranked(tmp_path):
    """What people have ranked: two pictures of two prompts, and one of another."""
    folder = tmp_path / "ranked"
    folder.mkdir()
    lines = ["file_name,prompt,rank"]
    for shade, (name, (prompt, rank)) in enumerate({**RANKS, "4.png": ("a desk", 1)}.items()):
        Image.new("RGB", (32, 32), (60 * shade, 0, 0)).save(folder / name)
        lines.append(f"{name},{prompt},{rank}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def networks(make_trainer):
    return make_trainer().networks


def test_a_rank_is_better_the_lower_and_groups_are_of_one_prompt(ranked, networks):
    pictures = RatedPictures(ranked, networks)
    assert pictures.groups == ((0, 1), (2, 3))
    assert pictures.scores.tolist() == [-2, -1, -1, -3, -1]
    assert pictures.spread == pytest.approx(((0.5 + 2) / 2) ** 0.5)
    latents, prompts = pictures.get([1, 3])
    assert latents.shape == (2, 4, 16, 16) and prompts == ["a red book", "a pen"]
    torch.testing.assert_close(latents[:1], networks.encode(pictures.image(1)))


def test_people_s_ranks_are_learnt_from_and_nothing_is_drawn(make_trainer, ranked, tmp_path):
    said = []
    trainer = make_trainer(Blind(), **LEARN, dpo={"pictures": ranked}, on_message=said.append)
    trainer.train()
    assert "round 0: 4 pictures of 2 prompts (1 without another of their prompt); 2 pairs" in said
    assert {*trainer.learner.algorithm.chosen} == {(1, 0), (2, 3)}
    assert not (tmp_path / "run" / "rounds").exists()
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text())["reward"] == pytest.approx(-7 / 4)
    moved = ranked.rename(tmp_path / "moved")
    longer = {**LEARN, "iterations": 2}
    assert make_trainer(Blind(), **longer, dpo={"pictures": moved}).train(resume=True).iterations == 2
    (moved / "metadata.csv").write_text((moved / "metadata.csv").read_text().replace("a pen,3", "a pen,2"))
    with pytest.raises(OutputError, match="rated_pictures ratings"):
        make_trainer(Blind(), **longer, dpo={"pictures": moved}).train(resume=True)


def test_shuffled_rewards_stay_with_their_prompts(make_trainer):
    """The control: same pictures, each prompt's rewards the same, and none where it was for good."""
    options = {"algorithm": "dpo", "validation.every": 0, "dpo.candidates": 4}
    pictures = make_trainer(Blind(), **options)
    pictures.gradients(0)
    pictures = pictures.learner.algorithm.pictures
    before = pictures.scores.clone()
    for number in (0, 1):
        pictures.shuffle(42, number)
        for group in pictures.groups:
            assert sorted(pictures.scores[list(group)].tolist()) == sorted(before[list(group)].tolist())
            assert pictures.scores[list(group)].mean() == pytest.approx(float(before[list(group)].mean()), abs=1e-6)
        assert not torch.equal(pictures.scores, before)
        (shuffled,) = pictures.rewards.values()
        assert torch.equal(shuffled, pictures.scores)
        before = pictures.scores.clone()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,prompt\n0.png,a pen\n1.png,a pen", "says of no picture how good it is. Add a column 'reward'"),
        ("file_name,prompt,reward\n0.png,a pen,1\n1.png,a pen,good", r"'1\.png' in .* is rated 'good', which is no n"),
        ("file_name,prompt,reward\n0.png,a pen,1\n1.png,a pen,nan", "rated 'nan'"),
        ("file_name,prompt,reward\n0.png,a pen,1\n1.png,a pen,1e39", r"rated '1e39', which is more than the 1e\+18"),
        ("file_name,prompt,rank,reward\n0.png,a pen,1,2\n1.png,a pen,2,1", "has both 'reward' and 'rank', of which"),
        ("file_name,prompt,rank\n0.png,a pen,1\n./0.png,a pen,2", r"'0\.png' in .* has 2 ratings for 'a pen'\. Keep"),
    ],
)
def test_ratings_that_are_none_are_refused(ranked, networks, table, message):
    (ranked / "metadata.csv").write_text(table)
    with pytest.raises(OptionError, match=message):
        RatedPictures(ranked, networks)


def rated_by_several(ranked, *rewards):
    (ranked / "metadata.csv").unlink()
    rows = [
        {"file_name": f"{i}.png", "prompt": "a pen", "reward": 1.0, "rewards": each} for i, each in enumerate(rewards)
    ]
    (ranked / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ranked


def test_several_rewards_are_each_standardised_within_a_prompt_then_weighed(ranked, networks):
    """By hand, whatever their scales: ``large`` speaks for the first picture, and ``small`` too, half as much."""
    folder = rated_by_several(ranked, *({"large": 100.0 * i, "small": 0.01 * (i == 2)} for i in (2, 1, 0)))
    pictures = RatedPictures(folder, networks, {"large": 1.0, "small": 0.5})
    large, small = (1.2247, 0, -1.2247), (1.4142, -0.7071, -0.7071)
    expected = [a + 0.5 * b for a, b in zip(large, small, strict=True)]
    assert pictures.scores.tolist() == pytest.approx(expected, abs=1e-3)


def test_ratings_by_several_rewards_must_be_of_the_same(ranked, networks):
    folder = rated_by_several(ranked, {"a": 1.0, "b": 2.0}, {"a": 1.0})
    with pytest.raises(OptionError, match=r"not all pictures of .* have 'rewards' by the same names.*Keep"):
        RatedPictures(folder, networks)


def test_ratings_that_the_reward_has_no_weight_for_are_told_and_logged(make_trainer, ranked, tmp_path):
    said = []
    folder = rated_by_several(ranked, {"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0})
    trainer = make_trainer(Blind(), **LEARN, dpo={"pictures": folder}, names={"reward": "a"}, on_message=said.append)
    trainer.train()
    assert "what b said of the given pictures weighs 1: the reward has no such part" in said
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert (line["reward.a"], line["reward.b"], line["reward"]) == (2, 2, 4)


def test_a_folder_without_a_table_is_told_what_the_table_must_have(tmp_path, networks):
    with pytest.raises(OptionError, match=r"has no table that says how good .* file_name, text and 'reward' \(higher"):
        RatedPictures(tmp_path, networks)


def test_latents_of_another_model_are_refused(make_trainer, networks):
    from realignkit.refl.rounds import folder_of

    trainer = make_trainer(Blind(), algorithm="dpo", validation={"every": 0})
    trainer.gradients(0)
    pictures = RatedPictures(folder_of(trainer.folder, 0), networks)
    networks.latent_shape = (4, 8, 8)
    with pytest.raises(OptionError, match=r"are of another model or size\. Remove the \.safetensors files"):
        pictures.get([0])


@pytest.mark.parametrize(("suffix", "error"), [(".png", OptionError), (".safetensors", DamagedError)])
def test_what_is_cut_off_is_refused_before_any_work(make_trainer, tmp_path, suffix, error):
    make_trainer(Blind(), algorithm="dpo", validation={"every": 0}).gradients(0)
    folder = tmp_path / "run" / "rounds" / "000"
    cut = (folder / "00000-1").with_suffix(suffix)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(error, match=cut.name):
        make_trainer(Blind(), **LEARN, dpo={"pictures": folder}, out=tmp_path / "second")


def test_what_is_rated_alike_but_for_rounding_has_no_advantage(ranked, networks):
    pictures = RatedPictures(ranked, networks)
    pictures.scores = torch.tensor([0.3, 0.3 + 3e-8, 0.1, 0.2, 0.3])
    assert pictures.unequal == ((2, 3),)
    assert pictures.advantages[:2].tolist() == [0, 0] and bool(pictures.advantages[2:4].all())
