"""Evaluations of pictures that are there: what is measured once is kept, and what is kept is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import Field

from realignkit.contracts import Options
from realignkit.errors import ImageError, ModelError, OptionError, OutputError, PluginError, ScorerError
from realignkit.evaluation.compare import compare_folders
from realignkit.evaluation.evaluate import Evaluation
from realignkit.evaluation.folder import EvaluationFolder
from realignkit.evaluation.pictures import read_pictures
from realignkit.named import Named
from realignkit.records import checksum
from tests.evaluation.judges import PROMPTS, Redness, Spread, levels, metrics, results


def test_each_picture_has_a_line_with_what_each_metric_says_of_it(folder: Path, tmp_path: Path):
    labels = {PROMPTS[0]: {"id": "r", "category": "books"}}
    pictures = read_pictures(folder)
    Evaluation(pictures, metrics(), tmp_path / "out", labels=labels, source="made up", batch_size=5)()
    lines = [json.loads(line) for line in (tmp_path / "out" / "pictures.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [picture.id for picture in pictures]
    red = levels(Image.open(folder / "0.png"))[0]
    assert lines[0]["values"] == {"redness": {"red": float(red > 0.5), "colour/red": red}}
    assert lines[0]["details"]["redness"][0]["question"] == "is it red?"
    assert (lines[0]["image"], lines[0]["labels"]) == (str(folder / "0.png"), labels[PROMPTS[0]])
    assert set(lines[1]["values"]["redness"]) == {"red", "colour/red", "colour/blue"}
    assert "labels" not in lines[1]
    assert lines[2]["values"] == {"redness": {}}  # it does not understand the prompt
    record = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert record["pictures"] == {
        "source": "made up",
        "count": 12,
        "prompts": 3,
        "identity": record["pictures"]["identity"],
    }
    assert record["metrics"]["redness"]["identity"] == {"template": "is it red?"}
    variance = np.var([levels(Image.open(p.path)) for p in pictures], axis=0).sum()
    assert record["whole"]["spread"]["spread"] == pytest.approx(variance, rel=1e-9)


def test_what_is_measured_is_not_measured_again_and_metrics_may_be_added(folder: Path, tmp_path: Path):
    looked = []

    class Counting(Redness):
        def judge_each(self, images, prompts):
            looked.extend(prompts)
            return super().judge_each(images, prompts)

    pictures, out = read_pictures(folder), tmp_path / "out"
    Evaluation(pictures, [Named("metric", "redness", Counting())], out)()
    first = results(out)
    Evaluation(pictures, [Named("metric", "redness", Counting())], out)()
    assert results(out) == first
    assert len(looked) == 8
    Evaluation(pictures, [*metrics(), Named("metric", "again", Redness())], out)()
    line = json.loads((out / "pictures.jsonl").read_text().splitlines()[1])
    assert line["values"]["again"] == line["values"]["redness"]
    assert len(looked) == 8
    assert results(out)["whole"]["spread"]["spread"] > 0


def test_a_picture_that_has_changed_is_measured_again(folder: Path, tmp_path: Path):
    out, said = tmp_path / "out", []
    Evaluation(read_pictures(folder), metrics(), out)()
    Image.new("RGB", (6, 8), "red").save(folder / "0.png")
    Evaluation(read_pictures(folder), metrics(), out)(say=said.append)
    assert said == ["1 pictures have changed, and are measured again"]
    Evaluation(read_pictures(folder), metrics(), tmp_path / "fresh")()
    assert results(out) == results(tmp_path / "fresh")


class Rewriting(Redness):
    """Somebody rewrites a picture while it is judged."""

    picture: Path

    def judge_each(self, images, prompts):
        Image.new("RGB", (6, 8), "red").save(self.picture)
        return super().judge_each(images, prompts)


def test_a_picture_that_is_rewritten_while_it_is_judged_keeps_the_hash_of_what_was_judged(folder, tmp_path):
    out, before, said = tmp_path / "out", checksum(folder / "0.png"), []
    rewriting = Rewriting()
    rewriting.picture = folder / "0.png"
    Evaluation(read_pictures(folder), [Named("metric", "redness", rewriting)], out)()
    assert EvaluationFolder(out).lines()["0001-1"]["sha256"] == before[:16]
    Evaluation(read_pictures(folder), metrics(), out)(say=said.append)
    assert said == ["1 pictures have changed, and are measured again"]
    assert EvaluationFolder(out).lines()["0001-1"]["values"]["redness"]["colour/red"] == 1.0


def test_values_of_two_metrics_are_of_the_same_picture(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    Evaluation(read_pictures(folder), metrics(), out)()
    rewriting = Rewriting()
    rewriting.picture = folder / "6.png"  # of a later batch
    again = Named("metric", "again", rewriting)
    with pytest.raises(OptionError, match=r"6\.png' has changed while pictures were judged\. Run the same command"):
        Evaluation(read_pictures(folder), [*metrics(), again], out, batch_size=4)()
    Evaluation(read_pictures(folder), [*metrics(), again], out, batch_size=4)()
    Evaluation(read_pictures(folder), [*metrics(), again], tmp_path / "fresh", batch_size=4)()
    assert results(out) == results(tmp_path / "fresh")


def test_results_of_other_pictures_options_or_identities_are_refused_in_words(folder: Path, tmp_path: Path):
    pictures, out = read_pictures(folder), tmp_path / "out"
    Evaluation(pictures, metrics(), out)()
    with pytest.raises(OptionError, match=r"holds an evaluation of others: pictures.count \(12 there, 11 now\)"):
        Evaluation(pictures[1:], metrics(), out)()
    other = Redness()
    other.identity = lambda: {"template": "is it blue?"}  # type: ignore[method-assign]
    with pytest.raises(
        OptionError, match=r"metric 'redness': identity.template \(\"is it red\?\" there, \"is it blue\?\""
    ):
        Evaluation(pictures, [Named("metric", "redness", other)], out)()
    with pytest.raises(OutputError, match="holds no evaluation"):
        EvaluationFolder(tmp_path).existing()
    with pytest.raises(OptionError, match="there are no metrics"):
        Evaluation(pictures, [], out)


class Asking(Redness):
    class Options(Options):
        questions: str = ""
        vqa_options: dict[str, object] = Field({})


def asking(questions: Path | str, **options: object) -> list[Named]:
    return [Named("metric", "asking", Asking(questions=str(questions), vqa_options={"model": "x", **options}))]


def test_bounds_and_batches_and_paths_of_the_same_file_make_no_difference(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one.json", "copy.json", "other.json"):
        (tmp_path / name).write_text("[2]" if name == "other.json" else "[1]")
    pictures, out, again = read_pictures(folder), tmp_path / "out", tmp_path / "again"
    Evaluation(pictures, asking(tmp_path / "one.json", max_cost=1.0, batch_size=8), out)()
    now = asking("./copy.json", batch_size=2, concurrency=3, max_total_tokens=None)
    Evaluation(pictures, now, out)()
    Evaluation(pictures, now, again)()
    assert compare_folders(out, again).changes
    with pytest.raises(OptionError, match=r"what is in options.questions \(1 file, 3 bytes"):
        Evaluation(pictures, asking("./other.json"), out)()
    with pytest.raises(OptionError, match=r'options.vqa_options.model \("x" there, "y" now\)'):
        Evaluation(pictures, asking("./one.json", model="y"), out)()


class Found(Asking):
    """Finds its file where no option says, and says what is in it."""

    def identity(self):
        return {"questions": Path(self.options.questions or "found.json").read_text()}


def test_a_file_that_is_found_is_the_same_as_by_its_path(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("found.json", "copy.json", "other.json"):
        (tmp_path / name).write_text("[2]" if name == "other.json" else "[1]")
    pictures, out, again = read_pictures(folder), tmp_path / "out", tmp_path / "again"

    def found(questions: str) -> list[Named]:
        return [Named("metric", "asking", Found(questions=questions))]

    Evaluation(pictures, found(""), out)()
    Evaluation(pictures, found("./copy.json"), out)()
    Evaluation(pictures, found("./copy.json"), again)()
    assert compare_folders(out, again).changes
    with pytest.raises(OptionError, match=r'identity.questions \("\[1\]" there, "\[2\]" now\)'):
        Evaluation(pictures, found("./other.json"), out)()


def test_a_picture_that_a_metric_cannot_look_at_is_named(folder: Path, tmp_path: Path):
    class Picky(Redness):
        def judge_each(self, images, prompts):
            if images[0].size != (8, 6):
                raise ImageError(f"{images[0].width} x {images[0].height} pixels are too many.")
            return super().judge_each(images, prompts)

    pictures = read_pictures(folder)[:4]
    with pytest.raises(OptionError, match=r"given/1\.png': 8 x 8 pixels are too many\.$"):
        Evaluation(pictures, [Named("metric", "picky", Picky())], tmp_path / "out", batch_size=2)()
    with pytest.raises(OptionError, match=r"given/1\.png' and 1 other of its size: 8 x 8"):
        Evaluation(pictures, [Named("metric", "picky", Picky())], tmp_path / "more", batch_size=4)()


def test_weights_that_are_loaded_on_use_are_part_of_what_was_measured(folder: Path, tmp_path: Path):
    import torch

    class Loaded(Redness):
        bias = 0.0

        def judge_each(self, images, prompts):
            self.network = torch.nn.Linear(1, 1)
            torch.nn.init.constant_(self.network.weight, 2.0)
            torch.nn.init.constant_(self.network.bias, self.bias)
            return super().judge_each(images, prompts)

    pictures, out = read_pictures(folder), tmp_path / "out"
    Evaluation(pictures, [Named("metric", "redness", Loaded())], out)()
    weights = json.loads((out / "eval.json").read_text())["metrics"]["redness"]["weights"]
    assert len(weights) == 16
    other = Loaded()
    other.bias = 1.0
    (out / "pictures.jsonl").unlink()
    with pytest.raises(OptionError, match=rf"metric 'redness' with other weights \({weights} there, "):
        Evaluation(pictures, [Named("metric", "redness", other)], out)()


class Unsure(Redness):
    """Asks somebody whose answers about some prompts and some pictures are of no use."""

    final = True

    def __init__(self, prompts=(), pictures=()):
        super().__init__()
        self.prompts, self.pictures, self.asked = prompts, pictures, []

    def can_judge(self, prompt):
        self.asked.append(prompt)
        if prompt in self.prompts:
            raise ScorerError("no usable answer in 2 attempt(s): nonsense", "form", final=self.final)
        return True

    def judge_each(self, images, prompts):
        if any(levels(image)[0] in self.pictures for image in images):
            raise ScorerError("no usable answer about it", "declined", final=self.final)
        return super().judge_each(images, prompts)


def test_what_gets_no_usable_answer_is_left_out_and_said(folder: Path, tmp_path: Path):
    pictures, said = read_pictures(folder), []
    odd = levels(pictures[4].open())[0]
    metric, out = Unsure([PROMPTS[0]], [odd]), tmp_path / "out"
    Evaluation(pictures, [Named("metric", "unsure", metric)], out)(say=said.append)
    values = [line["values"]["unsure"] for line in EvaluationFolder(out).lines().values()]
    assert [bool(each) for each in values] == [place % 3 != 0 and place != 4 for place in range(12)]
    assert said == [
        "metric 'unsure' leaves out 'a red book': no usable answer in 2 attempt(s): nonsense",
        "metric 'unsure' leaves out a picture of 'a blue pen': no usable answer about it",
    ]
    assert sorted(metric.asked) == sorted(PROMPTS)


@pytest.mark.parametrize("final", [True, False])
def test_whoever_cannot_answer_at_all_ends_an_evaluation(folder: Path, tmp_path: Path, final: bool):
    pictures = read_pictures(folder)
    broken = Unsure(pictures=[levels(picture.open())[0] for picture in pictures[: 12 if final else 1]])
    broken.final = final
    with pytest.raises(ScorerError, match="no usable answer about it"):
        Evaluation(pictures, [Named("metric", "unsure", broken)], tmp_path / "out")()
    away = Unsure(PROMPTS[:1])
    away.final = False
    with pytest.raises(ScorerError, match="nonsense"):
        Evaluation(pictures, [Named("metric", "unsure", away)], tmp_path / "out")


def test_a_metric_that_breaks_its_contract_is_named(folder: Path, tmp_path: Path):
    class Wrong(Spread):
        def state(self):
            return {"sums": [1, 2]}

    with pytest.raises(
        PluginError, match="metric 'wrong' broke its contract: its state is no mapping of names to numpy"
    ):
        Evaluation(read_pictures(folder), [Named("metric", "wrong", Wrong())], tmp_path / "out")()


def test_metrics_that_know_no_prompt_or_compute_no_number_are_refused(folder: Path, tmp_path: Path):
    pictures = [picture for picture in read_pictures(folder) if "unknown" in picture.prompt]
    with pytest.raises(OptionError, match="metric 'redness' can judge none of 1 prompts"):
        Evaluation(pictures, metrics(), tmp_path / "out")

    class Nothing(Spread):
        def compute(self):
            return {"spread": float("nan")}

    with pytest.raises(ModelError, match="metric 'nothing' computed NaN or infinity"):
        Evaluation(pictures, [Named("metric", "nothing", Nothing())], tmp_path / "nothing")()


def test_a_metric_whose_weights_cannot_be_had_is_refused_before_any_work(folder: Path, tmp_path: Path):
    class Away(Redness):
        def out_of_reach(self):
            return "its weights are away. Fetch them."

    pictures, away = read_pictures(folder), Named("metric", "away", Away())
    with pytest.raises(
        ModelError, match=r"metric 'away' cannot work: its weights are away. Fetch them. Or leave it out"
    ):
        Evaluation(pictures, [*metrics(), away], tmp_path / "out")()
    assert not (tmp_path / "out" / "pictures.jsonl").exists()
    Away.out_of_reach = lambda self: ""
    Evaluation(pictures, [away], tmp_path / "done")()
    Away.out_of_reach = lambda self: pytest.fail("it is done")
    Evaluation(pictures, [away], tmp_path / "done")()


def test_a_truncated_picture_is_named_with_its_line_however_far_the_others_are(folder: Path, tmp_path: Path):
    content = (folder / "7.png").read_bytes()
    (folder / "7.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(OptionError, match=r"line 8 of '.*metadata\.jsonl': cannot read '.*7\.png' as an image"):
        Evaluation(read_pictures(folder), metrics(), tmp_path / "out", batch_size=2)()
    assert len((tmp_path / "out" / "pictures.jsonl").read_text().splitlines()) == 6
