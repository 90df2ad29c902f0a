"""Table IV on tiny and embedded models: counts against a count by hand, resuming, failures that stay in their cell."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from realignkit import resolve
from realignkit.contracts import PromptSet, Scorer, Tagger
from realignkit.errors import OptionError, PromptError, ScorerError
from realignkit.evaluation.measure import Ablation, join
from realignkit.evaluation.plan import scorers_plan
from realignkit.evaluation.scorers import (
    NOT_NAMED,
    Answers,
)
from realignkit.evaluation.statistics import wilson
from realignkit.evaluation.write import write_tables
from realignkit.hookspecs import hookimpl
from realignkit.images import picture_key, png
from realignkit.named import Named
from realignkit.realigner import Realigner
from realignkit.types import Expected, Likelihood, LocalCaption, Tag, Truth
from tests import tiny

PROMPTS = ("a red book and a yellow pen", "a red book", "a yellow pen")


class Prompts(PromptSet):
    """Knows about books and pens."""

    source = "three of ours"

    def __iter__(self):
        return iter(PROMPTS)

    def __len__(self):
        return len(PROMPTS)

    def truth(self, prompt, tags):
        named = [noun for noun in ("book", "pen") if noun in prompt]
        return Truth({tag: Expected(tag in named) for tag in tags}, len(named), sum(n in tags for n in named))


class Everything(Scorer):
    """Calls everything certain; counts how often it is asked."""

    asked = 0
    concurrency = 3

    def __call__(self, prompt, tags):
        type(self).asked += 1
        return tuple(LocalCaption(tag.name, f"a {tag.name}", Likelihood.CERTAIN) for tag in tags)


class Moody(Scorer):
    """Has no answer; for the second prompt it will never have one."""

    asked = 0

    def __call__(self, prompt, tags):
        type(self).asked += 1
        final = prompt == PROMPTS[1]
        raise ScorerError("not today", "form" if final else "timeout", final=final)


class Pens(Tagger):
    def __call__(self, images):
        return [(Tag("pen", 0.9),) for _ in images]


class Blind(Tagger):
    def __call__(self, images):
        raise RuntimeError("no eyes")


@pytest.fixture
def ablation(registry, tmp_path):
    class Here:
        @hookimpl
        def register_scorers(self, register):
            register("everything", Everything, "")
            register("moody", Moody, "")

        @hookimpl
        def register_taggers(self, register):
            register("pens", Pens, "")
            register("blind", Blind, "")

    registry.register(Here(), "here")
    Everything.asked = Moody.asked = 0

    def make(taggers=("pens",), scorers=("everything",), prompts=None, seeds=(42,), limit=None, **arguments):
        prompts = Prompts() if prompts is None else prompts
        taggers, scorers = (
            resolve.make([registry.info(kind, name) for name in names], {})
            for kind, names in (("tagger", taggers), ("scorer", scorers))
        )
        realigner = Realigner.drawing("tiny", registry=registry, **arguments)
        answers = Answers(realigner, taggers, scorers, Named("prompts", "Prompts", prompts), tmp_path / "out")
        ablation = Ablation(
            scorers_plan([tagger.name for tagger in taggers], [scorer.name for scorer in scorers]),
            answers,
            list(prompts)[:limit],
            seeds=seeds,
            source=getattr(prompts, "source", ""),
        )

        def rows():
            ablation()
            return write_tables(tmp_path / "out")[0].rows

        return rows

    return make


def test_the_table_is_the_count(ablation, tmp_path):
    (cell,) = ablation()()
    # A pen is named by the first and the third prompt, and certain in all three answers.
    assert (cell.asked.images, cell.n, cell.asked.successes, cell.asked.reasons) == (3, 3, 2, {NOT_NAMED: 1})
    assert (cell.asked.objects, cell.asked.seen) == (4, 2)
    assert cell.value == pytest.approx(2 / 3)
    (row,) = json.loads((tmp_path / "out" / "table.json").read_text())
    assert (row["successes"], row["reasons"]) == (2, {NOT_NAMED: 1})
    page = (tmp_path / "out" / "table.md").read_text()
    assert "| pens | everything | 0.667 |" in page
    assert "three of ours" in page


def test_answers_about_one_prompt_are_not_independent(ablation, tmp_path):
    (cell,) = ablation(seeds=[1, 2, 3, 4])()
    assert (cell.n, cell.prompts) == (12, 3)
    # The answers of a prompt are all alike: they tell as much as three, and not as twelve.
    low, high = cell.low, cell.high
    assert high - low > 0.9 * (wilson(2, 3)[1] - wilson(2, 3)[0])
    assert "| 12 | 3 |" in (tmp_path / "out" / "table.md").read_text()
    (alone,) = ablation(limit=1, seeds=[1])()
    assert (alone.low, alone.high) == wilson(1, 1)


class Punctuated(Prompts):
    """The same words, so the same file names."""

    def __iter__(self):
        return iter(f"{prompt}!" for prompt in PROMPTS)


def test_a_picture_of_another_prompt_is_not_taken_for_ones_own(ablation, tmp_path):
    ablation()()
    folder = tmp_path / "out" / "images"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    ablation(prompts=Punctuated())()
    assert {path.name for path in folder.iterdir()} == first.keys()
    assert all(path.read_bytes() != first[path.name] for path in folder.iterdir())


def test_what_is_damaged_is_made_again(ablation, tmp_path):
    first = ablation(batch_size=1)()
    out = tmp_path / "out"
    image, tags, answer = (sorted((out / name).rglob("*.*"))[0] for name in ("images", "tags", "answers"))
    whole = {path: path.read_bytes() for path in (image, tags)}
    damages = (b"", b"{", b"[]", b"\x89PNG", b'{"prompt": "a red book and a yellow pen", "tags": 3}')
    for content in damages:
        for path in (image, tags, answer, out / "ablation.json"):
            path.write_bytes(content)
        asked = Everything.asked
        (again,) = ablation(batch_size=1)()
        assert (again.asked.successes, again.n) == (first[0].asked.successes, 3)
        assert Everything.asked == asked + 1
        assert {path: path.read_bytes() for path in whole} == whole


def test_tags_and_answers_are_of_their_picture_and_plugin(ablation, tmp_path):
    """Another picture in the place of one is tagged again, whatever put it there."""
    ablation()()
    image, tags = (sorted((tmp_path / "out" / name).rglob("*.*"))[0] for name in ("images", "tags"))
    before = json.loads(tags.read_text())
    key = picture_key(image)
    image.write_bytes(png(Image.new("RGB", (32, 32), "red"), key))
    ablation()()
    assert json.loads(tags.read_text())["image"] != before["image"]


def test_nothing_is_done_twice(ablation, tmp_path):
    first = ablation()()
    images = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "images").iterdir()}
    assert len(images) == 3
    assert Everything.asked == 3
    assert ablation()() == first
    assert Everything.asked == 3
    # What is lost is made again, and nothing else.
    (lost, *_) = sorted((tmp_path / "out" / "answers").rglob("*.json"))
    lost.write_text("{")
    (again,) = ablation()()
    assert (again.asked.successes, again.asked.reasons) == (first[0].asked.successes, first[0].asked.reasons)
    assert Everything.asked == 4
    assert {path: path.stat().st_mtime_ns for path in images} == images


def test_folders_of_the_first_version_are_gone_on_with(ablation, registry, tmp_path):
    """They had ``images``, ``tagger`` and ``scorer`` in ``ablation.json``, and no rows."""
    out = tmp_path / "out"
    (first,) = ablation()()
    record = json.loads((out / "ablation.json").read_text())
    settings = Realigner.drawing("tiny", registry=registry).settings
    images = {"model": "tiny", "generator": settings["generator"], "sampling": settings["sampling"], "contents": {}}
    (out / "ablation.json").write_text(json.dumps({"images": images, **record["plugins"]}))
    for name in ("rows.jsonl", "table.md", "table.csv", "table.json", "plot.svg"):
        (out / name).unlink()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*/*") if path.is_file()}
    assert len(kept) == 9  # pictures, tags, answers
    assert ablation()() == (first,)
    assert Everything.asked == 3
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    (out / "ablation.json").write_text(json.dumps({"images": images, **record["plugins"]}))
    with pytest.raises(OptionError, match="num_inference_steps"):
        ablation(sampling={"num_inference_steps": 2})


def test_tables_of_several_processes_are_joined_and_answers_written_for_spreadsheets(ablation, tmp_path):
    (whole,) = ablation(scorers=["moody"], seeds=[1, 2])()
    shutil.rmtree(tmp_path / "out")
    for seed in (1, 2):
        ablation(scorers=["moody"], seeds=[seed])()
        (tmp_path / "out").rename(tmp_path / f"{seed}")
    assert join([tmp_path / "1", tmp_path / "2"], tmp_path / "joined") == 6
    (row,) = write_tables(tmp_path / "joined")[0].rows
    assert replace(row, asked=replace(row.asked, seconds=0)) == replace(whole, asked=replace(whole.asked, seconds=0))
    (line,) = csv.DictReader((tmp_path / "joined" / "table.csv").open())
    assert (line["scorer"], line["asked"], line["no answer: timeout"], line["rate"]) == ("moody", "6", "4", "0.0")


def test_passing_failures_are_asked_again_and_final_ones_are_kept(ablation):
    for asked in (3, 5):
        (cell,) = ablation(scorers=["moody"])()
        assert (cell.asked.successes, cell.asked.reasons) == (0, {"no answer: form": 1, "no answer: timeout": 2})
        assert Moody.asked == asked


def test_what_fails_stays_in_its_cell(ablation):
    cells = ablation(taggers=["blind", "pens"], scorers=["everything", "moody"])()
    assert [(cell.asked.tagger, cell.asked.scorer) for cell in cells] == [
        ("blind", "everything"),
        ("blind", "moody"),
        ("pens", "everything"),
        ("pens", "moody"),
    ]
    assert all("no eyes" in cell.asked.problem and cell.value is None for cell in cells[:2])
    assert [cell.asked.successes for cell in cells[2:]] == [2, 0]


def test_prompts_without_a_known_truth_are_no_questions(ablation):
    class Unknown(Prompts):
        def truth(self, prompt, tags):
            return super().truth(prompt, tags) if prompt == PROMPTS[0] else None

    (cell,) = ablation(prompts=Unknown())()
    assert (cell.asked.images, cell.n, cell.asked.successes) == (3, 1, 1)


def test_half_a_character_is_refused_at_the_start(ablation):
    with pytest.raises(PromptError, match="broken character"):
        ablation(prompts=["a red book", "a \ud83d pen"])


def test_another_ablation_needs_another_folder(ablation):
    ablation(limit=1)()
    ablation(taggers=["pens", "quadrants"], limit=2, seeds=[42, 43])()  # more of the same is welcome
    with pytest.raises(OptionError, match="sampling"):
        ablation(sampling={"num_inference_steps": 2})
    with pytest.raises(OptionError, match="at least one"):
        ablation(scorers=[])


def test_the_command(cli, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red book\na yellow pen\n")
    arguments = ("ablate", "scorers", "--model", "tiny", "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "o")
    result = cli(*arguments, "--scorer", "lexical", "--scorer", "wordy", "--set", "sampling.num_inference_steps=2")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "o" / "table.json").read_text())
    assert [(row["tagger"], row["scorer"]) for row in rows] == [("quadrants", "lexical"), ("quadrants", "wordy")]
    assert rows[0]["rate"] == 1.0  # judged by its own rules
    assert "prompts.txt" in (tmp_path / "o" / "table.md").read_text()
    assert cli(*arguments[:4], "--prompts", "nonsense").exit_code == 2
    limited = cli("ablate", "scorers", "--model", "tiny", "--set", "prompts.size=1", "--out", tmp_path / "p")
    assert limited.exit_code == 0, limited.output
    assert len(list((tmp_path / "p" / "images").iterdir())) == 1
    assert cli("ablate", "scorers", "--set", "prompts.siz=1").exit_code == 2


def test_tiny_is_what_is_drawn(ablation, tmp_path):
    from PIL import Image

    ablation(limit=1)()
    (path,) = (tmp_path / "out" / "images").iterdir()
    size = tiny.shared_pipeline().unet.config.sample_size * 2
    with Image.open(path) as image:
        assert image.size == (size, size)
