"""RAM, RAM++ and Tag2Text give what the original code gives; published files fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from realignkit.errors import ModelError, OptionError
from realignkit.registry import Registry
from realignkit.testing import check_plugin
from realignkit_plugins import taggers
from realignkit_plugins.taggers.recognize_anything import RecognizeAnythingTagger
from realignkit_plugins.taggers.recognize_anything_config import PUBLISHED, NetworkConfig
from realignkit_plugins.taggers.recognize_anything_files import load_weights
from realignkit_plugins.taggers.recognize_anything_networks import RAM, RAMPlus, build_network
from tests.plugins.taggers import recognize_anything as golden

NAMES = ("ram", "tag2text")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *((name, file) for name in NAMES for file in ("checkpoint.pth", "checkpoint_legacy_names.pth")),
        ("ram_plus", "checkpoint.pth"),
    ],
)
def test_equals_the_original(name: str, file: str, tmp_path: Path) -> None:
    about, io = golden.meta(name), golden.numbers(name)
    tagger = RecognizeAnythingTagger(
        model=str(golden.GOLDEN / name / file), device="cpu", batch_size=1, **golden.write_vocabulary(tmp_path, name)
    )
    images = golden.images(name)
    pixels = tagger.pixels(images)
    torch.testing.assert_close(pixels, io["pixel_values"], rtol=0, atol=about["tolerance"]["atol_pixel_values"])

    network = tagger.loaded.network
    with torch.no_grad():
        embeds = network.image_embeds(pixels)
        ours = {
            "visual_features": network.visual_encoder(pixels),
            "tagging_embeds": network.tagging_head(network.queries(embeds), embeds),
            "logits": network(pixels),
            "probs": tagger.probabilities(images),
        }
        if name == "ram":
            ours |= {"image_embeds": embeds, "label_embed_projected": network.queries(embeds)[0]}
        if name == "ram_plus":
            ours |= {"image_embeds": embeds, "label_embed_queries": network.queries(embeds)}
    for key, tensor in ours.items():
        atol = about["tolerance"]["atol_per_tensor"].get(key, 1e-6)
        assert torch.allclose(tensor, io[key], rtol=about["tolerance"]["rtol"], atol=atol), key

    answers = tagger(images)
    for tags, expected, probabilities in zip(answers, about["expected"]["tags"], io["probs"], strict=True):
        confidence = {tag.name: tag.confidence for tag in tags}
        assert set(confidence) == set(expected.split(" | "))
        assert list(confidence.values()) == sorted(confidence.values(), reverse=True)
        for tag in tags:
            at = about["tag_list"].index(tag.name)
            assert tag.confidence == pytest.approx(float(probabilities[at]), abs=2e-5)
    assert tagger.labels == tuple(about["tag_list"])


def test_other_classes_replace_the_descriptions_of_ram_plus() -> None:
    """As the original does for classes of one's own: other rows, another number of descriptions for each."""
    about, io = golden.meta("ram_plus"), golden.numbers("ram_plus")
    other = about["expected"]["openset"]
    weights = {**golden.weights("ram_plus"), "label_embed": io["openset_label_embed"]}
    changed = {"num_tags": other["classes"], "descriptions_per_tag": other["descriptions_per_class"]}
    network = build_network(NetworkConfig(**golden.config("ram_plus", **changed)))
    load_weights(network, weights, "mine.pth")
    with torch.no_grad():
        logits = network.eval()(io["pixel_values"])
    atol = about["tolerance"]["atol_per_tensor"]["openset_logits"]
    torch.testing.assert_close(logits, io["openset_logits"], rtol=about["tolerance"]["rtol"], atol=atol)


@pytest.mark.parametrize(
    ("name", "legacy"), [*((n, legacy) for n in NAMES for legacy in (False, True)), ("ram_plus", False)]
)
def test_published_names_and_shapes_fit(name: str, legacy: bool) -> None:
    """On the meta device, where tensors have shapes but no memory."""
    published = json.loads((golden.GOLDEN / name / "published_key_shapes.json").read_text())["keys"]
    dtypes = {"float32": torch.float32, "int64": torch.int64}
    weights = {
        key.replace("tagging_head.", "vision_multi.") if legacy else key: torch.empty(
            shape, dtype=dtypes[dtype], device="meta"
        )
        for key, (shape, dtype) in published.items()
    }
    with torch.device("meta"):
        network = build_network(PUBLISHED[name])
    load_weights(network, weights, name)
    unused = ("tag_encoder.", "text_decoder.")
    assert sum(p.numel() for p in network.parameters()) == sum(
        math.prod(shape)
        for key, (shape, dtype) in published.items()
        if dtype == "float32" and not key.startswith(unused) and not key.endswith("attn_mask")
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_run(name: str) -> None:
    """Shapes alone, without memory or arithmetic."""
    with torch.device("meta"):
        network = build_network(PUBLISHED[name]).to("meta")
        assert network(torch.empty(2, 3, 384, 384)).shape == (2, PUBLISHED[name].num_tags)


def test_what_does_not_fit_is_named() -> None:
    def load(change: dict, skip: tuple[str, ...] = ()) -> None:
        weights = golden.weights("ram")
        weights.update({key: value for key, value in change.items() if value is not None})
        for key in (key for key, value in change.items() if value is None):
            del weights[key]
        load_weights(build_network(NetworkConfig(**golden.config("ram"))), weights, "mine.pth", skip)

    load({})
    for change, message in (
        ({"fc.bias": None}, r"'mine.pth'.*1 missing \(fc.bias\)"),
        ({"extra.a": torch.ones(1), "extra.b": torch.ones(1)}, r"2 unexpected \(extra.a, extra.b\).*skip"),
        ({"fc.bias": torch.ones(2)}, r"fc.bias \[2\] instead of \[1\]"),
        ({"fc.bias": torch.ones(1, dtype=torch.int64)}, "of another shape"),
        ({"vision_multi.encoder.layer.0.output.dense.bias": torch.ones(20)}, "there twice"),
    ):
        with pytest.raises(ModelError, match=message):
            load(change)
    load({"extra.a": torch.ones(1)}, skip=("extra.",))
    with pytest.raises(ModelError, match="missing"):
        load({"label_embed": None}, skip=("label_embed",))  # what is needed cannot be skipped


def small(architecture: str, **changes: object) -> NetworkConfig:
    return NetworkConfig(**{**golden.config("ram"), "architecture": architecture, **changes})


def test_ram_plus_weighs_descriptions_by_the_image() -> None:
    """Against sums written out, one image and one tag at a time (arXiv:2310.15200, section 3.3)."""
    torch.manual_seed(0)
    network = RAMPlus(small("ram_plus", num_tags=3, descriptions_per_tag=4, label_size=6)).double()
    embeds = torch.randn(2, 5, 6, dtype=torch.float64)
    got = network.queries(embeds)
    assert got.shape == (2, 3, 20)
    labels, scale = network.label_embed.tolist(), math.exp(float(network.reweight_scale.detach()))
    assert scale == pytest.approx(1 / 0.07)
    for b in range(2):
        pooled = embeds[b, 0].tolist()
        length = math.sqrt(sum(value**2 for value in pooled))
        for tag in range(3):
            four = labels[4 * tag : 4 * tag + 4]
            powers = [math.exp(scale * sum(p * d for p, d in zip(pooled, one, strict=True)) / length) for one in four]
            mixed = [sum(w * one[i] for w, one in zip(powers, four, strict=True)) / sum(powers) for i in range(6)]
            want = network.wordvec_proj(torch.tensor(mixed, dtype=torch.float64)).clamp(min=0)
            torch.testing.assert_close(got[b, tag], want)


def test_ram_plus_with_one_description_is_ram() -> None:
    config = small("ram_plus", descriptions_per_tag=1)
    plus, ram = RAMPlus(config).eval(), RAM(small("ram")).eval()
    weights = {key: value for key, value in plus.state_dict().items() if key != "reweight_scale"}
    load_weights(ram, weights, "x")
    pixels = golden.numbers("ram")["pixel_values"]
    torch.testing.assert_close(plus(pixels), ram(pixels))


def test_image_tokens_can_be_as_wide_as_the_head() -> None:
    """The original leaves the projection of the labels out then; so do the names of the weights."""
    network = build_network(small("ram", label_size=20))
    assert not any(name.startswith("wordvec_proj") for name in network.state_dict())
    assert network(torch.randn(1, 3, 96, 96)).shape == (1, 21)


def test_thresholds_deleted_tags_and_doubles(tmp_path: Path) -> None:
    about = golden.meta("tag2text")
    image, probabilities = golden.images("tag2text")[0], golden.numbers("tag2text")["probs"][0].tolist()
    files = golden.write_vocabulary(tmp_path, "tag2text")
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    first, second, third = order[:3]
    names = about["tag_list"].copy()
    names[second] = names[third] = "twin"
    files["tag_list"].write_text("\n".join(names) + "\n")
    changes = {"deleted_tags": [first], "threshold": 0.5, "own_thresholds": {order[3]: 1.0}}
    files["config"].write_text(json.dumps(golden.config("tag2text", **changes)))
    options = {"model": str(golden.GOLDEN / "tag2text" / "checkpoint.pth"), **files}
    [tags] = RecognizeAnythingTagger(**options)([image])
    expected = [i for i in order if probabilities[i] > 0.5 and i not in (first, third, order[3])]
    assert [tag.name for tag in tags] == [names[i] for i in expected]
    assert tags[0].name == "twin"
    assert tags[0].confidence == pytest.approx(probabilities[second], abs=1e-5)
    [one] = RecognizeAnythingTagger(**options, threshold=0.1, top_k=1)([image])
    assert one == tags[:1]
    everything = RecognizeAnythingTagger(**options, threshold=0)([image])[0]
    assert len(everything) == len(set(names)) - 1  # all but the deleted one; own thresholds do not count
    assert RecognizeAnythingTagger(**options, threshold=1)([image]) == [()]


def test_any_mode_and_no_image(tmp_path: Path) -> None:
    options = {"model": str(golden.GOLDEN / "ram" / "checkpoint.pth"), **golden.write_vocabulary(tmp_path, "ram")}
    tagger = RecognizeAnythingTagger(**options)
    grey = golden.images("ram")[0].convert("L")
    assert torch.equal(tagger.probabilities([grey]), tagger.probabilities([grey.convert("RGB")]))
    assert tagger([]) == []
    assert len(tagger([Image.new("RGBA", (1, 500))])) == 1


def test_nan_is_reported(tmp_path: Path) -> None:
    weights = golden.weights("ram")
    weights["fc.bias"].fill_(math.nan)
    torch.save({"model": weights}, tmp_path / "bad.pth")
    options = golden.write_vocabulary(tmp_path, "ram")
    with pytest.raises(ModelError, match="NaN"):
        RecognizeAnythingTagger(model=str(tmp_path / "bad.pth"), **options)(golden.images("ram"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": (1, 2)}, "same length"),
        ({"image_size": 100}, "does not divide"),
        ({"num_heads": (3, 2, 2, 4)}, "heads do not divide"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"deleted_tags": (21,)}, "indices"),
        ({"colour": 1}, "colour"),
    ],
)
def test_impossible_shapes_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(golden.config("ram", **change)))
    with pytest.raises(ModelError, match=message):
        NetworkConfig.read(path)


def test_the_registered_ones_name_the_published_files() -> None:
    registry = Registry(discover=False)
    registry.register(taggers)
    for name in ("ram", "ram_plus", "tag2text"):
        options = registry.create("tagger", name).options
        assert options.architecture == name
        assert options.file.endswith("_14m.pth")
        assert options.model.startswith("xinyu1205/")
    with pytest.raises(OptionError, match="architecture"):
        registry.create("tagger", "ram", architecture="clip")


@pytest.mark.parametrize("name", [*NAMES, "ram_plus"])
def test_it_keeps_its_contract(name: str, tmp_path: Path) -> None:
    vocabulary = golden.write_vocabulary(tmp_path, name)
    check_plugin(
        RecognizeAnythingTagger(model=str(golden.GOLDEN / name / "checkpoint.pth"), device="cpu", **vocabulary)
    )
