"""``realignkit plugin new``: asks nothing when told enough."""

from __future__ import annotations


def test_a_project_from_its_name_and_kind(cli, tmp_path):
    target = tmp_path / "project"
    done = cli("plugin", "new", "night-vision", "--kind", "tagger", "--out", target, "--license", "MIT", "--publish")
    assert done.exit_code == 0, done.output
    assert "pip install -e '.[test]'" in done.stdout
    assert "realignkit plugins validate ." in done.stdout
    assert (target / "LICENSE").read_text().startswith("MIT License")
    assert (target / ".github" / "workflows" / "publish.yml").is_file()


def test_a_project_around_an_environment_of_its_own(cli, tmp_path):
    done = cli("plugin", "new", "old-tagger", "--kind", "tagger", "--isolated", "--out", tmp_path / "project")
    assert done.exit_code == 0, done.output
    assert "realignkit env create old-tagger --requires 'numpy'" in done.stdout
    assert (tmp_path / "project" / "realignkit_old_tagger_program.py").is_file()


def test_another_spelling_of_the_name_is_said(cli, tmp_path):
    done = cli("plugin", "new", "My_Reward", "--kind", "reward", "--out", tmp_path / "project")
    assert done.exit_code == 0, done.output
    assert "the plugin is called 'my-reward': names are lower case, with hyphens." in done.stderr
    done = cli("plugin", "new", "realignkit-night-vision", "--kind", "reward", "--out", tmp_path / "third")
    assert "the plugin is called 'night-vision': names go without 'realignkit-' before them." in done.stderr
    assert "note" not in cli("plugin", "new", "mine", "--kind", "reward", "--out", tmp_path / "other").stderr


def test_without_a_kind_and_nobody_to_ask(cli, tmp_path):
    done = cli("plugin", "new", "night-vision", "--out", tmp_path / "project")
    assert done.exit_code == 2
    assert "say which kind of plugin it shall be: --kind generator, reward, " in done.stderr
    assert not (tmp_path / "project").exists()


def test_a_name_that_is_taken(cli, tmp_path):
    done = cli("plugin", "new", "quadrants", "--kind", "tagger", "--out", tmp_path / "project")
    assert done.exit_code == 2
    assert "a tagger called 'quadrants' is installed already, from tiny. Take another name." in done.stderr
