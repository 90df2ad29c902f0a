"""Rows on a tiny model: each picture is what its stage would draw, nothing is drawn twice, seeds are dealt evenly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from realignkit.contracts import Metric
from realignkit.contracts import Options as PluginOptions
from realignkit.errors import OptionError, PluginError, PromptError, ScorerError
from realignkit.evaluation.judging import Judging
from realignkit.evaluation.measure import Ablation, Pictures
from realignkit.evaluation.plan import Model, noise_seed, rewards_plan, stages_plan
from realignkit.evaluation.results import AblationFolder, digest
from realignkit.evaluation.write import write_tables
from realignkit.frechet import frechet_distance
from realignkit.hookspecs import hookimpl
from realignkit.named import Named
from realignkit.realigner.draft import candidate_seeds
from tests.refl.rewards import Darkness

PROMPTS = ("a red book and a yellow pen", "something else", "a red book", "a yellow pen")
KNOWN = [prompt for prompt in PROMPTS if "book" in prompt or "pen" in prompt]
SAMPLING = {"num_inference_steps": 2}


class Brightness(Metric):
    """Mean brightness, as a number and as yes or no; knows books and pens; counts the pictures it sees."""

    seen = 0

    def judge_each(self, images, prompts):
        type(self).seen += len(images)
        values = [float(np.asarray(image.convert("L")).mean() / 255) for image in images]
        return [{"bright": float(value > 0.5), "brightness": value} for value in values]

    def can_judge(self, prompt):
        return prompt in KNOWN

    def features(self, images):
        return np.stack([np.asarray(image.convert("RGB")).mean((0, 1)) / 255 for image in images])

    def reference(self, prompts, count):
        return [Image.new("RGB", (8, 8), (i % 256, 100, 50 + 3 * i)) for i in range(count)]

    def update(self, images, prompts):
        raise AssertionError("judge_each is there")

    def compute(self):
        raise AssertionError("judge_each is there")

    def merge(self, other):
        raise AssertionError


class Choosy(Brightness):
    """The same with a file."""

    class Options(PluginOptions):
        reference: str = ""


class Streaming(Metric):
    """The same number without a method for single pictures."""

    total, count = 0.0, 0

    def update(self, images, prompts):
        self.total += sum(float(np.asarray(image.convert("L")).mean() / 255) for image in images)
        self.count += len(images)

    def compute(self):
        return {"n": self.count, "brightness": self.total / self.count}

    def merge(self, other):
        raise AssertionError


@pytest.fixture
def bench(registry, make_realigner, tmp_path):
    class Here:
        @hookimpl
        def register_metrics(self, register):
            register("brightness", Brightness, "")
            register("streaming", Streaming, "")
            register("choosy", Choosy, "")

    registry.register(Here(), "here")
    Brightness.seen = 0

    def make(plan, out="out", metric="brightness", scores=(), batch_size=2, **arguments):
        realigner = make_realigner(sampling=SAMPLING, batch_size=batch_size)
        judging = Judging(registry, metric, options=arguments.pop("options", None), scores=scores)
        prompts, limit = judging.able(arguments.pop("prompts", PROMPTS)), arguments.pop("limit", None)

        def generator(**options):
            return Named("generator", "tiny", registry.create("generator", "tiny", **options))

        keep_images = arguments.pop("keep_images", False)
        pictures = Pictures(realigner, judging, generator, tmp_path / out, keep_images=keep_images)
        return Ablation(plan, pictures, prompts[:limit], **arguments)

    return make


def pictures(folder, row):
    return {path.stem: np.asarray(Image.open(path)) for path in (folder / "images" / row).iterdir()}


def test_stages_are_what_a_realigner_makes(bench, make_realigner, tmp_path):
    chooser = Darkness()
    plan = stages_plan([], candidates=3, select_by=Named("reward", "darkness", chooser))
    assert list(plan.rows) == ["base", "fine", "base, best of 3", "fine, best of 3"]
    bench(plan, scores=["darkness"], keep_images=True, limit=2, seeds=[5])()
    alone = make_realigner(sampling=SAMPLING, batch_size=2)
    several = make_realigner(sampling=SAMPLING, candidates=3, select_by=chooser, batch_size=6)
    for index, prompt in enumerate(KNOWN[:2], start=1):
        seed = noise_seed(5, index)
        one, best = alone(prompt, seed), several(prompt, seed)
        wanted = {
            "base": one.coarse,
            "fine": one.image,
            "base-best-of-3": best.coarse,
            "fine-best-of-3": best.image,
        }
        for row, image in wanted.items():
            found = pictures(tmp_path / "out", row)[f"{index:04d}-s5"].astype(int)
            # Batches of another size round differently.
            assert abs(found - np.asarray(image)).max() <= 1, row
    darkest = {m.row: m.scores["darkness"] for m in AblationFolder(tmp_path / "out").read() if m.index == 1}
    drawn = alone.generate([KNOWN[0]] * 3, candidate_seeds(noise_seed(5, 1), 3))
    rated = [1 - np.asarray(image).mean() / 255 for image in drawn]
    assert darkest["base, best of 3"] == pytest.approx(max(rated), abs=1e-3)
    table, _ = write_tables(tmp_path / "out")
    marked = {row.name: row.scores["darkness"].raised for row in table.rows}
    assert marked == {name: "best of" in name for name in plan.rows}


def test_guided_stages_are_what_a_guided_realigner_makes(bench, make_realigner, tmp_path):
    guided = make_realigner(sampling=SAMPLING, batch_size=2, guide_by="colour", guide_strength=0.5)
    bench(stages_plan([], guided=guided), keep_images=True, limit=1, seeds=[5])()
    made = guided(KNOWN[0], noise_seed(5, 1))
    for row, image in {"base-guided": made.coarse, "fine-guided": made.image}.items():
        assert abs(pictures(tmp_path / "out", row)["0001-s5"].astype(int) - np.asarray(image)).max() <= 1, row
    assert (pictures(tmp_path / "out", "base")["0001-s5"] != np.asarray(made.coarse)).any()


def test_nothing_is_drawn_twice_and_more_is_welcome(bench, tmp_path):
    path = tmp_path / "out" / "rows.jsonl"
    bench(rewards_plan({}), seeds=[0])()
    first = path.read_text()
    assert Brightness.seen == 3  # the prompt that it does not know is left out
    bench(rewards_plan({}), seeds=[0])()
    assert (Brightness.seen, path.read_text()) == (3, first)
    bench(rewards_plan({"again": [Model({}, {"weights": "x"})]}), seeds=[0, 1])()
    assert Brightness.seen == 3 + 3 + 6
    assert path.read_text().startswith(first)
    # A row whose model is the base draws the same pictures.
    found = {m.key: m for m in AblationFolder(tmp_path / "out").read()}
    for (row, index, seed), measurement in found.items():
        twin = found["base" if row == "again" else "again", index, seed]
        assert measurement.values["brightness"] == pytest.approx(twin.values["brightness"], abs=1e-3)
    assert sorted({(m.index, m.prompt) for m in found.values()}) == [
        (index, digest(prompt)) for index, prompt in enumerate(KNOWN, start=1)
    ]
    # What a killed run did not finish is made up for.
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]) + lines[-2][:30])
    bench(rewards_plan({"again": [Model({}, {"weights": "x"})]}), seeds=[0, 1])()
    assert sorted(path.read_text().splitlines()) == sorted("".join(lines).splitlines())


def test_interrupted_between_batches(bench, tmp_path):
    def stop(step, done, total):
        if step == "base" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench(rewards_plan({}), seeds=[0])(stop)
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 2
    bench(rewards_plan({}), seeds=[0])()
    assert Brightness.seen == 3


def test_seeds_are_dealt_to_the_models_of_a_row(bench, tmp_path):
    rows = {"three": [Model({}, {"weights": name}) for name in "abc"], "one": [Model({}, {"weights": "d"})]}
    ablation = bench(rewards_plan(rows), limit=1)
    assert ablation.seeds == [0, 1, 2]
    assert ablation.idle == []
    ablation()
    dealt = {(m.row, m.seed): m.run for m in AblationFolder(tmp_path / "out").read()}
    assert dealt == {
        **{("base", seed): 0 for seed in range(3)},
        **{("three", seed): seed for seed in range(3)},
        **{("one", seed): 0 for seed in range(3)},
    }
    table, _ = write_tables(tmp_path / "out")
    assert [row.base.n for row in table.rows[1:]] == [3, 3]
    assert bench(rewards_plan(rows), "other", limit=1, seeds=[4]).idle == ["three 1", "three 3"]


def test_the_table_is_of_the_kept_pictures(bench, tmp_path):
    bench(rewards_plan({}), metric="brightness.brightness", seeds=[0, 1], keep_images=True)()
    (row,) = write_tables(tmp_path / "out")[0].rows
    images = [Image.fromarray(image) for _, image in sorted(pictures(tmp_path / "out", "base").items())]
    metric = Brightness()
    assert row.value == pytest.approx(np.mean([v["brightness"] for v in metric.judge_each(images, [])]))
    reference = metric.reference([], 12)  # four of each prompt
    assert row.frechet == pytest.approx(frechet_distance(metric.features(images), metric.features(reference)), rel=1e-4)


def test_a_metric_without_a_method_for_single_pictures(bench, tmp_path):
    bench(rewards_plan({}), metric="streaming", prompts=KNOWN, keep_images=True)()
    found = AblationFolder(tmp_path / "out").read()
    images = pictures(tmp_path / "out", "base")
    for measurement in found:
        grey = Image.fromarray(images[f"{measurement.index:04d}-s0"]).convert("L")
        assert measurement.values == {"brightness": pytest.approx(np.asarray(grey).mean() / 255)}
        assert measurement.features is None


def test_other_conditions_are_refused(bench):
    bench(rewards_plan({}), limit=1)()
    with pytest.raises(OptionError, match="scores"):
        bench(rewards_plan({}), limit=1, scores=["darkness"])
    with pytest.raises(OptionError, match="other prompts"):
        bench(rewards_plan({}), prompts=KNOWN[::-1])()
    with pytest.raises(OptionError, match="kind"):
        bench(stages_plan([]), limit=1)
    with pytest.raises(OptionError, match="can judge none of 1 prompts"):
        bench(rewards_plan({}), "other", prompts=["something else"])
    with pytest.raises(PromptError, match="broken character"):
        bench(rewards_plan({}), "other", prompts=[f"{KNOWN[0]} \ud83d"], metric="streaming", scores=["darkness"])
    with pytest.raises(OptionError, match=r"no value 'size'\. It has: bright, brightness"):
        bench(rewards_plan({}), "other", metric="brightness.size", limit=1)()


def test_what_a_metric_breaks_is_told(bench):
    class Forgetful(Brightness):
        def judge_each(self, images, prompts):
            return super().judge_each(images, prompts)[1:]

    ablation = bench(rewards_plan({}), limit=2)
    ablation.measurer.judging.metric = Named("metric", "forgetful", Forgetful())
    with pytest.raises(PluginError, match="2 images got 1 judgements"):
        ablation()


class Unsure(Brightness):
    def judge_each(self, images, prompts):
        if "a red book" in prompts:
            raise ScorerError("it says nothing.", "tags", final=True)
        return super().judge_each(images, prompts)


def test_a_picture_without_a_usable_answer_is_left_out_and_ends_nothing(bench, tmp_path):
    said = ["metric 'unsure' leaves out a picture of 'a red book': it says nothing."]
    for left_out in (said, []):  # it is not asked again
        ablation = bench(rewards_plan({}))
        ablation.measurer.judging.metric = Named("metric", "unsure", Unsure())
        ablation()
        assert ablation.measurer.left_out == left_out
        assert Unsure.seen == 2
    (base,) = write_tables(tmp_path / "out")[0].rows
    assert (base.n, base.prompts) == (2, 2)
    assert base.silent == 1
    assert [bool(m.values) for m in AblationFolder(tmp_path / "out").read()] == [True, False, True]
    assert "Metric 'brightness' knows nothing to say of 1 of 3 pictures." in (tmp_path / "out/table.md").read_text()


def test_a_metrics_files_go_by_what_is_in_them(bench, tmp_path):
    def measure(folder):
        bench(rewards_plan({}), metric="choosy", options={"reference": str(folder)}, limit=1)()

    for name, content in (("here", "1"), ("moved", "1"), ("other", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "answers.json").write_text(content)
    measure(tmp_path / "here")
    measure(tmp_path / "moved")
    with pytest.raises(OptionError, match=r"what is in metric\.reference"):
        measure(tmp_path / "other")
    # Folders of earlier versions do not know what was in there.
    record = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert record["settings"]["contents"].pop("metric.reference")
    (tmp_path / "out" / "ablation.json").write_text(json.dumps(record))
    measure(tmp_path / "moved")


def test_what_is_missing_of_a_picture_is_measured_again(bench, tmp_path):
    """Its features, a picture that is to be kept, reference pictures of more prompts."""
    plan = rewards_plan({})
    bench(plan, keep_images=True, limit=1)()
    seen, out = Brightness.seen, tmp_path / "out"
    bench(plan, keep_images=True, limit=1)()
    assert Brightness.seen == seen
    (out / "features.jsonl").write_text((out / "features.jsonl").read_text()[:-30])
    bench(plan, keep_images=True, limit=1)()
    assert Brightness.seen == seen + 1
    assert all(m.features is not None for m in AblationFolder(out).read())
    next((out / "images").rglob("*.png")).unlink()
    bench(plan, keep_images=True, limit=1)()
    assert Brightness.seen == seen + 2
    assert len(list((out / "images").rglob("*.png"))) == 1
    before = len(AblationFolder(out).reference())
    bench(plan, keep_images=True, limit=2)()
    assert len(AblationFolder(out).reference()) == 2 * before
