"""What the README and the docs tell people to type is typed here, and what is generated from the code is up to date."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from realignkit import KINDS, Likelihood, LocalCaption, Tag
from realignkit.registry import default_registry
from realignkit_plugins.micro import checkpoints
from realignkit_plugins.scorers import templates
from realignkit_plugins.scorers.answers import ANSWER_SCHEMA, write_answer
from tests.conftest import HANGS
from tests.plugins.generators.original import write_quick_model
from tests.testing.test_fixtures import MODULE as FIXTURES

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<file>[^\"]+)\")?[^\n]*\n"
    r"(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)

# Commands that are not run, and why. Each must still be in use.
EXEMPT_COMMANDS = {
    r"make (demo|test|docs)": "installs; continuous integration is itself 'make test', and 'realignkit run' is run",
    r"pip install ": "installs; tests/test_examples.py does it into a folder of its own",
    r"realignkit run .*--scorer keyword": "needs the example plugin; tests/test_examples.py runs it",
    r"realignkit run .*--model sd15 ": "needs the hub and a GPU; tests/plugins/generators has small ones",
    r"realignkit run .*--model path/to": "stands for a model of the reader's",
    r"realignkit run .*--scorer (gpt4|llama_cpp|openai_chat)": "needs a key, a service or a model file",
    r"realignkit run .*--model black-forest-labs/": "needs the hub and a GPU; tests/plugins/generators has small ones",
    r"export ": "sets a key of the reader's",
    r"CMAKE_ARGS=": "installs and compiles; 'make test-llama' does",
    r"tensorboard --logdir": "serves until it is stopped; docs/extras/tensorboard.md reads what it would show",
    r"(wandb login|realignkit train .*tracker=wandb)": "needs an account",
    r"accelerate launch ": "wants several GPUs; tests/refl/test_processes.py has several processes",
    r"realignkit train .*--model sd15 ": "needs the hub and a GPU; tests/refl/test_cli.py trains small ones",
    r"realignkit train .*size=320 ": "as it was measured; docs/fine-tune.md has one like it",
    r"realignkit ablate rewards": "needs trainings; tests/cli/test_ablate.py does small ones and measures them",
    r"realignkit ablate stages .*--lora": "needs what a training has made; tests/cli/test_ablate.py makes it",
    r"realignkit ablate methods .*--rows published": "draws for days; tests/cli/test_methods.py measures small rows",
    r"realignkit study make ablations/": "needs those pictures; tests/cli/test_study.py has some",
    r"realignkit ablate methods --rows micro": "needs two trainings; docs/how-to/ablations.md measures the other rows",
    r"realignkit ablate stages --prompts CC-500": "measures for hours; docs/how-to/ablations.md has small ones",
    r"realignkit ablate stages .*size=(200|400)": "measures for minutes; docs/how-to/ablations.md has small ones",
    r"(git clone|cd|source) ": "the reader's way to a checkout and its environment",
    r"python -m realignkit_plugins\.micro\.train": "trains for hours",
    r"realignkit study serve": "serves until it is stopped; tests/study/test_server.py starts and stops it",
    r"realignkit study (import|report|export .* ranked)": "needs people's answers; tests/cli/test_study.py has some",
    r"realignkit ui": "serves until it is stopped; tests/ui/test_browser.py starts and stops it",
    r"python benchmarks/": "measures for hours",
}
# Commands that take long as they stand, and the options, added to them here, that make them short.
SMALLER = {
    r"realignkit train ": "--prompts micro:train,size=2 --set iterations=1 --set batch_size=2 --set prior_images=2"
    " --set validation.prompts=2 --set validation.diversity=0",
    r"realignkit train --preset feedback": "--set nft.candidates=2 --set nft.pictures_at_once=2",
    r"python -m realignkit_plugins\.micro\.world ": "--count 4",
}
EXEMPT_PYTHON = {
    "--8<--": "included from examples/, which tests/test_examples.py runs",
    "path/to/my-model": "stands for a model of the reader's",
    "black-forest-labs/FLUX.1-dev": "needs the hub and a GPU",
}


def own_model(folder):
    """What the reader has downloaded: a model in one file, a classifier, a CLIPSeg, all small."""
    write_quick_model(folder / "downloaded.safetensors")
    shutil.copytree(checkpoints.path("tagger"), folder / "my-classifier")
    shutil.copytree(checkpoints.path("segmenter"), folder / "my-clipseg")


# What must lie in the reader's folder before a page is followed.
THERE = {"docs/how-to/your-own-model.md": own_model}


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    code: str
    file: str | None = None


def blocks(page):
    text = page.read_text(encoding="utf-8")
    return [Block(page, m["language"], textwrap.dedent(m["code"]), m["file"]) for m in FENCE.finditer(text)]


ALL = [block for page in PAGES for block in blocks(page)]


def commands(block):
    """The commands of a shell block; in a console block those are the lines after a ``$``."""
    if block.language == "console":
        lines = [line[2:] for line in block.code.splitlines() if line.startswith("$ ")]
    elif block.language in ("bash", "sh", "shell"):
        lines = block.code.replace("\\\n", " ").splitlines()
    else:
        return []
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def exempt(command):
    return any(re.match(pattern, command) for pattern in EXEMPT_COMMANDS)


def small(command):
    return " ".join([command, *(options for pattern, options in SMALLER.items() if re.match(pattern, command))])


def script(page):
    """A page as a program, top to bottom: files, commands and Python, which build on one another; "" without any."""
    lines = []
    for block in blocks(page):
        if block.file is not None:
            lines.append(f"open({block.file!r}, 'w').write({block.code!r})")
        elif block.language == "python" and not any(text in block.code for text in EXEMPT_PYTHON):
            lines.append(block.code)
        typed = [small(command) for command in commands(block) if not exempt(command)]
        lines += [f"_subprocess.run(['bash', '-euo', 'pipefail', '-c', {command!r}], check=True)" for command in typed]
    return "\n".join(["import subprocess as _subprocess", *lines]) if lines else ""


@pytest.mark.parametrize("page", [*filter(script, PAGES)], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_says_works(page, quick, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    THERE.get(page.relative_to(ROOT).as_posix(), lambda folder: None)(tmp_path)
    path = [str(quick), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    if all(point.value != FIXTURES for point in entry_points(group="pytest11")):  # installed before they were announced
        environment["PYTEST_ADDOPTS"] = f"-p {FIXTURES}"
    command = [quick / "python", "-c", script(page)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANGS)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


def test_the_page_on_ones_own_model_begins_with_a_file_from_the_web():
    text = (ROOT / "docs/how-to/your-own-model.md").read_text(encoding="utf-8")
    assert text.splitlines()[2] == "## I have a .safetensors file from the web"
    (first, *_) = [command for block in blocks(ROOT / "docs/how-to/your-own-model.md") for command in commands(block)]
    assert "--model downloaded.safetensors" in first
    assert not exempt(first)


def test_there_is_something_to_run():
    typed = [command for block in ALL for command in commands(block)]
    assert sum(command.startswith("realignkit run") and not exempt(command) for command in typed) >= 3
    assert sum(block.language == "python" for block in ALL) >= 5


def test_console_blocks_and_continued_lines_are_understood(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ echo a\na\n```\n- x\n\n  ```bash\n  echo \\\n    b\n  # no\n  ```\n```text\necho c\n```\n"
    )
    found = [c for block in blocks(page) for c in commands(block)]
    assert [" ".join(command.split()) for command in found] == ["echo a", "echo b"]


@pytest.mark.parametrize("text", EXEMPT_PYTHON)
def test_no_exempt_python_has_outlived_its_block(text):
    assert any(text in block.code for block in ALL if block.language == "python")


@pytest.mark.parametrize("pattern", [*(p for p in EXEMPT_COMMANDS if not p.startswith(("(git", "python"))), *SMALLER])
def test_no_exemption_has_outlived_its_command(pattern):
    assert any(re.match(pattern, command) for block in ALL for command in commands(block))


def test_no_command_asks_for_a_precision_that_only_some_processors_are_fast_in():
    assert not [command for block in ALL for command in commands(block) if re.search("bf16|bfloat16", command)]


def test_every_code_block_is_of_a_kind_that_is_known():
    known = {"bash", "bibtex", "console", "json", "python", "text", "toml", "yaml"}
    assert {block.language for block in ALL} <= known


def test_generated_pages_are_up_to_date():
    specification = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)
    for path, text in generate.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale: run python docs/generate.py"


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text):
            link = next(filter(None, target))
            if not re.match(r"\w+:", link) and not (page.parent / link).exists():
                broken.append((page.relative_to(ROOT).as_posix(), link))
    assert broken == []


def test_nothing_names_where_it_was_made():
    for page in [*PAGES, *(ROOT / "examples").rglob("*.py"), ROOT / "Makefile"]:
        assert not re.search(r"(?<![\w.])/(work|root|home)/", page.read_text(encoding="utf-8")), page


def test_every_plugin_of_ours_is_in_the_directory_and_no_other():
    """``docs/plugins.yaml`` is what docs/plugins.md is generated from; what others bring is theirs to say."""
    packages = {package["package"]: package for package in yaml.safe_load((ROOT / "docs/plugins.yaml").read_text())}
    listed = {(kind, name) for kind, names in packages["realignkit"]["plugins"].items() for name in names}
    ours = {(i.kind, i.name) for i in default_registry().infos() if i.source.startswith("realignkit:")}
    assert listed == ours, "put it into docs/plugins.yaml, and run python docs/generate.py"
    for package in packages.values():
        assert {"package", "about", "license", "url", "plugins"} == package.keys() - {"requires"}
        assert set(package["plugins"]) <= set(KINDS)


def test_every_extra_has_a_page_and_a_row():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    index = (ROOT / "docs/extras/index.md").read_text(encoding="utf-8")
    for extra in extras.keys() - {"browser", "dev", "docs", "test"}:
        assert f"realignkit[{extra}]" in (ROOT / f"docs/extras/{extra}.md").read_text(encoding="utf-8")
        assert f"| [`{extra}`]({extra}.md) |" in index
    assert {path.stem for path in (ROOT / "docs/extras").glob("*.md")} - {"index"} <= extras.keys()


@pytest.mark.parametrize("names", [("car", "bench"), ("car", "bench", "tree", "road", "sky", "grass", "wheel", "wood")])
def test_what_gpt4_costs_is_reckoned_from_what_is_sent(names):
    """Four characters a token; prices as the page quotes them, in US dollars per million tokens."""
    messages = templates.question("a yellow car and a blue bench", [Tag(name, 1.0) for name in names])
    asked = sum(len(message["content"]) for message in messages) + len(json.dumps(ANSWER_SCHEMA))
    likelihood = Likelihood.CERTAIN if len(names) == 2 else Likelihood.POSSIBLE
    colours = dict(zip(names, ("yellow", "blue"), strict=False))
    captions = [LocalCaption(n, f"a {colours.get(n, 'yellow')} {n}", likelihood) for n in names]
    tokens = round(asked / 4), round(len(write_answer(captions)) / 4)
    dollars = [sum(t * p for t, p in zip(tokens, prices, strict=True)) / 1000 for prices in ((2.5, 10), (0.15, 0.6))]
    row = f"| {len(names)} | {tokens[0]} | {tokens[1]} | ${dollars[0]:.2f} | ${dollars[1]:.2f} |"
    assert row in (ROOT / "docs/extras/gpt4.md").read_text(encoding="utf-8"), row


def test_the_page_of_models_says_what_the_page_of_all_models_says():
    """Download and memory of a model, by its name or hub id."""

    def rows(page):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]

    known = {}
    for cells in rows("models.md"):
        if len(cells) == 7:  # name, checkpoint, licence, download, memory, fine stage, what was checked
            for name in re.findall(r"`([^`]+)`", f"{cells[0]} {cells[1]}"):
                known.setdefault(name, cells[3:5])
    compared = 0
    for cells in rows("which.md"):
        name = cells[1].strip("`").partition("`")[0]
        if len(cells) == 6 and name in known:
            download, memory = known[name]
            assert (download or "none").startswith(cells[2]), name
            assert memory.startswith(cells[3]), name
            compared += 1
    assert compared >= 6
