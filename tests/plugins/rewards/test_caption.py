"""Eq. 4 and its estimators, against enumeration of every caption that a tiny captioner can say."""

from __future__ import annotations

import itertools

import pytest
import torch
import transformers as hf

from realignkit.errors import ModelError, OptionError
from realignkit.images import to_tensor
from realignkit.testing import check_plugin
from realignkit_plugins.rewards.caption import CaptionReward, leave_one_out, score_function
from realignkit_plugins.rewards.metric import RewardMetric
from tests.plugins.rewards.conftest import CAPTIONERS, pictures, to_pil

PROMPTS = ["a red book", "blue dog and a pen", "pen"]


def make(checkpoint, captioner="blip", text_encoder="q_former_text", **options):
    return CaptionReward(captioner=checkpoint(captioner), text_encoder=checkpoint(text_encoder), **options)


def states_of(reward, images):
    return reward._encode(reward.preprocessing(images))


def every_caption(captioner, length):
    """All token sequences up to a length, those that end early padded."""
    vocabulary = range(captioner.network.config.text_config.vocab_size)
    (end,) = captioner.ends
    rows = set()
    for tokens in itertools.product(vocabulary, repeat=length):
        stop = tokens.index(end) + 1 if end in tokens else length
        rows.add(tokens[:stop] + (captioner.pad,) * (length - stop))
    return torch.tensor(sorted(rows))


@pytest.fixture(scope="module")
def enumerated(checkpoint):
    """One image; every caption of two tokens, its log-probability (differentiable in the image) and its reward."""
    reward = make(checkpoint, max_new_tokens=2)
    captioner, _ = reward.loaded
    image = pictures(1).requires_grad_()
    tokens = every_caption(captioner, 2)
    log_probs = captioner.log_prob(states_of(reward, image), tokens)
    rewards = reward._cosines(captioner.decode(tokens), PROMPTS[:1] * len(tokens))
    return image, tokens, log_probs, rewards


@pytest.mark.parametrize("name", CAPTIONERS)
def test_what_is_scored_is_what_is_said(checkpoint, name):
    reward = make(checkpoint, captioner=name, max_new_tokens=6)
    captioner, _ = reward.loaded
    with torch.no_grad():
        states = states_of(reward, pictures(4))
        tokens = captioner.greedy(states)
        logits, kept = captioner.logits(states, tokens), captioner.mask(tokens)
        assert (logits.argmax(-1) == tokens)[kept].all()
        # Log-probabilities of captions, each alone and all at once.
        torch.manual_seed(0)
        samples = captioner.sample(states, 2)
        together = captioner.log_prob(states, samples)
        alone = torch.cat([captioner.log_prob(states[i // 2][None], samples[i][None]) for i in range(8)])
        many = captioner.sample(states[:1], 64).tolist()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert len(samples) == 8
    assert len({tuple(row) for row in many}) > 1
    # Of the captions of one image, whichever were drawn: those that earn alike give no gradient by themselves.
    images = pictures(2).requires_grad_()
    chances = captioner.log_prob(states_of(reward, images), samples[:4])
    gradient = torch.autograd.grad(chances.sum(), images)[0]
    assert gradient.flatten(1).abs().sum(1).gt(0).all()


@pytest.mark.parametrize("name", CAPTIONERS)
def test_captions_of_different_worth_give_a_gradient(checkpoint, name, monkeypatch):
    reward = make(checkpoint, captioner=name, num_samples=2)
    captioner, _ = reward.loaded
    said = captioner.tokenize(["a red book", "pen"] * 2, torch.device("cpu"))
    monkeypatch.setattr(captioner, "sample", lambda states, count: said)
    images = pictures(2).requires_grad_()
    values = reward(images, PROMPTS[:2])
    worth = reward._cosines(captioner.decode(said), [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2).unflatten(0, (2, 2))
    torch.testing.assert_close(values, worth.mean(1), rtol=1e-4, atol=1e-5)
    assert (worth[:, 0] - worth[:, 1]).abs().gt(1e-3).all()
    (found,) = torch.autograd.grad(values.sum(), images)
    chances = captioner.log_prob(states_of(reward, images), said).unflatten(0, (2, 2))
    # With two samples each is the other's baseline.
    expected = ((worth[:, 0] - worth[:, 1]) * (chances[:, 0] - chances[:, 1]) / 2).sum()
    torch.testing.assert_close(found, torch.autograd.grad(expected, images)[0], rtol=1e-3, atol=1e-7)
    assert found.flatten(1).abs().sum(1).gt(0).all()


@pytest.mark.parametrize("name", CAPTIONERS)
def test_a_text_is_read_as_it_would_be_said(checkpoint, name):
    captioner, _ = make(checkpoint, captioner=name).loaded
    texts = ["a red book", "a book and a red pen"]
    tokens = captioner.tokenize(texts, torch.device("cpu"))
    assert captioner.decode(tokens) == texts
    assert [int(row[keep][-1]) for row, keep in zip(tokens, captioner.mask(tokens), strict=True)] == [
        captioner.ends[0]
    ] * 2


@pytest.mark.parametrize("name", CAPTIONERS)
def test_texts_and_captions_that_are_too_long_are_cut(checkpoint, name):
    reward = make(checkpoint, captioner=name, estimator="likelihood", max_new_tokens=500)
    assert torch.isfinite(reward(pictures(1), ["a red book and a pen " * 40]))
    captioner, _ = reward.loaded
    assert captioner.greedy(states_of(reward, pictures(1))).shape[1] <= captioner.max_new_tokens <= 500


def test_captions_have_probabilities(enumerated):
    _, tokens, log_probs, _ = enumerated
    assert float(log_probs.detach().exp().sum()) == pytest.approx(1, abs=1e-4)
    assert len(tokens) == 1 + 13 * 14


def test_samples_follow_the_probabilities(checkpoint, enumerated):
    image, tokens, log_probs, _ = enumerated
    reward = make(checkpoint, max_new_tokens=2)
    captioner, _ = reward.loaded
    count = 6000
    torch.manual_seed(0)
    samples = captioner.sample(states_of(reward, image), count)
    place = {tuple(row): i for i, row in enumerate(tokens.tolist())}
    seen = torch.zeros(len(tokens)).index_add_(
        0, torch.tensor([place[tuple(row)] for row in samples.tolist()]), torch.ones(count)
    )
    chance = log_probs.detach().exp()
    likely = chance * count > 10
    deviations = (seen - chance * count)[likely] / (chance * (1 - chance) * count).sqrt()[likely]
    assert likely.sum() > 10
    assert deviations.abs().max() < 4.5
    assert deviations.square().mean() < 2


def test_leave_one_out_is_unbiased(enumerated):
    """The mean over all pairs of captions, each weighted by its probability, is the gradient of the expectation."""
    image, _, log_probs, rewards = enumerated
    chance = log_probs.detach().exp().double()
    (exact,) = torch.autograd.grad((log_probs.exp() * rewards).sum(), image, retain_graph=True)
    pairs = torch.cartesian_prod(torch.arange(len(chance)), torch.arange(len(chance)))
    leaf = log_probs.detach().double()[pairs].requires_grad_()
    surrogate = score_function(leaf, rewards.double()[pairs], leave_one_out(rewards.double()[pairs]))
    (each,) = torch.autograd.grad((surrogate * chance[pairs].prod(1)).sum(), leaf)
    weight = torch.zeros(len(chance), dtype=torch.float64).index_add_(0, pairs.flatten(), each.flatten())
    (estimated,) = torch.autograd.grad(log_probs, image, weight.float(), retain_graph=True)
    torch.testing.assert_close(estimated, exact, rtol=1e-3, atol=1e-6)
    assert exact.abs().max() > 1e-4


def test_expected_is_the_expectation_and_its_gradient(checkpoint, enumerated):
    image, _, log_probs, rewards = enumerated
    (exact,) = torch.autograd.grad((log_probs.exp() * rewards).sum(), image, retain_graph=True)
    expectation = float((log_probs.exp() * rewards).sum().detach())
    reward = make(checkpoint, max_new_tokens=2, num_samples=128)
    torch.manual_seed(1)
    total, gradient = 0.0, torch.zeros_like(image)
    for _ in range(12):
        value = reward(image, PROMPTS[:1])
        gradient += torch.autograd.grad(value.sum(), image)[0] / 12
        total += float(value) / 12
    assert total == pytest.approx(expectation, abs=4 * float(rewards.std()) / 1536**0.5)
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0) > 0.9
    assert float(gradient.norm() / exact.norm()) == pytest.approx(1, abs=0.25)


def test_likelihood_is_the_networks_own_loss(checkpoint):
    reward = make(checkpoint, estimator="likelihood")
    network, images = reward.loaded[0].network, pictures(2)
    for image, prompt in zip(images, PROMPTS, strict=False):
        ids = [5, *reward.loaded[0].tokenizer(prompt, add_special_tokens=False)["input_ids"], 3]
        with torch.no_grad():
            loss = network(
                pixel_values=reward.preprocessing(image[None]),
                input_ids=torch.tensor([ids]),
                labels=torch.tensor([[-100, *ids[1:]]]),
            ).loss
        network.text_decoder.label_smoothing = 0.0
        torch.testing.assert_close(reward(image[None], [prompt])[0], -loss, rtol=1e-4, atol=1e-4)
    assert reward.margin == 0


def test_contrast_is_the_difference_of_two_of_the_networks_losses(checkpoint):
    reward = make(checkpoint, estimator="contrast", max_new_tokens=4)
    captioner, images = reward.loaded[0], pictures(2)
    network = captioner.network
    network.text_decoder.label_smoothing = 0.0
    for image, prompt in zip(images, PROMPTS, strict=False):
        told = [*captioner.tokenizer(prompt, add_special_tokens=False)["input_ids"], 3]
        (greedy,) = captioner.greedy(states_of(reward, image[None])).tolist()
        said = greedy[: greedy.index(3) + 1] if 3 in greedy else greedy
        losses = []
        for words in (told, said):
            with torch.no_grad():
                given = {"input_ids": torch.tensor([[5, *words]]), "labels": torch.tensor([[-100, *words]])}
                losses.append(network(pixel_values=reward.preprocessing(image[None]), **given).loss)
        torch.testing.assert_close(reward(image[None], [prompt])[0], losses[1] - losses[0], rtol=1e-4, atol=1e-4)
    assert reward.margin == 0


@pytest.mark.parametrize("estimator", ["expected", "likelihood", "contrast", "soft"])
def test_candidates_are_ranked_by_likelihood(checkpoint, estimator):
    reward, likelihood = make(checkpoint, estimator=estimator), make(checkpoint, estimator="likelihood")
    images = pictures(3)
    ranked = reward.ranked(images, PROMPTS)
    assert not ranked.requires_grad
    torch.testing.assert_close(ranked, likelihood(images, PROMPTS))
    if estimator != "likelihood":
        assert (ranked < 0).all(), "log-probabilities, not cosines"


def test_as_a_metric_an_estimator_is_measured_or_refused(checkpoint):
    chosen = {"captioner": checkpoint("blip"), "text_encoder": checkpoint("q_former_text"), "estimator": "likelihood"}
    images = to_pil(pictures(3))
    metric = RewardMetric(reward="caption", options=chosen, as_trained=True)
    measured = [value["caption_as_trained"] for value in metric.judge_each(images, PROMPTS)]
    expected = make(checkpoint, estimator="likelihood", dtype="fp32")(to_tensor(images), PROMPTS)
    assert measured == pytest.approx(expected.tolist(), abs=1e-5)
    with pytest.raises(OptionError, match=r"'estimator' .*'caption'.* as_trained=true"):
        RewardMetric(reward="caption", options=chosen).judge_each(images, PROMPTS)
    in_a_sum = {"caption.estimator": "soft", "caption.captioner": chosen["captioner"]}
    with pytest.raises(OptionError, match=r"'caption.estimator' says what a training"):
        RewardMetric(reward="caption,clip", options=in_a_sum).update(images, PROMPTS)
    with pytest.raises(OptionError, match=r"within 'options' of the metric of 'caption': .*'reward.estimatr'"):
        RewardMetric(reward="caption", options={"estimatr": "soft"}).update(images, PROMPTS)


@pytest.mark.parametrize("text_encoder", ["q_former_text", "clip"])
def test_soft_has_the_value_of_eq_4_and_a_gradient(checkpoint, text_encoder):
    reward = make(checkpoint, text_encoder=text_encoder, estimator="soft", max_new_tokens=4)
    images = pictures(3).requires_grad_()
    values = reward(images, PROMPTS)
    captions = reward.captions(images)
    features = reward.loaded[1]
    expected = (features(captions) * features(PROMPTS)).sum(-1)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reward.reported(images.detach(), PROMPTS), expected)
    (gradient,) = torch.autograd.grad(values.sum(), images)
    assert gradient.flatten(1).abs().sum(1).gt(0).all()


def test_words_are_aligned_by_their_text(checkpoint):
    features = make(checkpoint).loaded[1]
    table = features.alignment(["a red bookpen"], [[" a", " re", "d", " bookpen", ""]], width=5)
    # [CLS] a red [UNK] [SEP]
    expected = torch.zeros(5, 5)
    expected[1, 0] = 1
    expected[2, 1:3] = 0.5
    expected[3, 3] = 1
    torch.testing.assert_close(table[0], expected)
    own = features.network.get_input_embeddings().weight
    torch.testing.assert_close(features.embeddings_of(["red book", ""]), torch.stack([own[8:11:2].mean(0), own[3]]))


def test_clip_text_features_are_clips(checkpoint):
    folder = checkpoint("clip")
    features = make(checkpoint, text_encoder="clip").loaded[1]
    tokens = hf.AutoTokenizer.from_pretrained(folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = hf.CLIPModel.from_pretrained(folder).eval().get_text_features(**tokens).pooler_output
    torch.testing.assert_close(features(PROMPTS), torch.nn.functional.normalize(expected, dim=-1))
    torch.testing.assert_close(features(PROMPTS[::-1]), features(PROMPTS).flip(0))  # the second time from memory


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"num_samples": 16}, 30),
        ({"num_samples": 1}, 30),
        ({"estimator": "likelihood"}, 30),
        ({"estimator": "contrast"}, 30),
        ({"estimator": "soft"}, 30),
    ],
    ids=str,
)
def test_ascent_raises_eq_4(checkpoint, options, steps):
    reward = make(checkpoint, max_new_tokens=3, **options)
    prompts = ["red book", "blue dog", "a pen"] * 2
    images = pictures(6)
    before = reward.reported(images, prompts)
    torch.manual_seed(0)
    images.requires_grad_()
    optimizer = torch.optim.Adam([images], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        (reward.margin - reward(images, prompts)).sum().backward()
        optimizer.step()
        images.data.clamp_(0, 1)
    after = reward.reported(images.detach(), prompts)
    assert after.mean() > before.mean() + 0.1


def test_a_text_encoder_of_another_kind_is_refused(checkpoint):
    with pytest.raises(ModelError, match="BLIP-2 or a CLIP checkpoint"):
        _ = make(checkpoint, text_encoder="siglip").loaded


@pytest.mark.parametrize("estimator", ["expected", "likelihood", "contrast", "soft"])
def test_it_keeps_its_contract(checkpoint, estimator):
    check_plugin(make(checkpoint, estimator=estimator))


@pytest.mark.parametrize(("estimator", "guides"), [("expected", "likelihood"), ("contrast", "contrast")])
def test_sampling_is_guided_by_a_gradient_without_sampled_captions(checkpoint, estimator, guides):
    reward, expected = make(checkpoint, estimator=estimator), make(checkpoint, estimator=guides)
    images = pictures(3).requires_grad_()
    torch.testing.assert_close(reward.guiding(images, PROMPTS), expected(images, PROMPTS))
    (ours,) = torch.autograd.grad(reward.guiding(images, PROMPTS).sum(), images)
    (theirs,) = torch.autograd.grad(expected(images, PROMPTS).sum(), images)
    torch.testing.assert_close(ours, theirs)
