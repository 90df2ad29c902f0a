"""What Table I on the embedded model is measured with."""

from __future__ import annotations

from PIL import Image


def test_prompts_in_the_vocabulary_and_the_worlds_own_pictures(script, tmp_path, monkeypatch, capsys):
    prompts = ["a red book and a yellow pen", "a lion in Venice", "a green horse", "a blue car and a white dog"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    monkeypatch.setattr(
        "sys.argv", ["systems", str(tmp_path / "prompts.txt"), "--every", "2", "--out", str(tmp_path / "out")]
    )
    script("systems").main()
    assert "2 of 3 prompts, 15 pictures" in capsys.readouterr().out
    assert (tmp_path / "out" / "prompts.txt").read_text().splitlines() == [prompts[0], prompts[3]]
    pictures = sorted((tmp_path / "out" / "reference").iterdir())
    assert len(pictures) == 15
    assert Image.open(pictures[0]).size == (64, 64)
