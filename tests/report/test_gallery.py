from __future__ import annotations

from pathlib import Path

from PIL import Image

from realignkit.evaluation.write_evaluation import ShownTable
from realignkit.report.gallery import Card, Section, thumbnail, write_gallery


def test_a_page_needs_no_other_file_and_escapes_what_others_wrote(tmp_path: Path):
    Image.new("RGB", (600, 300), "red").save(tmp_path / "large.png")
    hostile = "<script>alert(1)</script>"
    table = ShownTable(f"by {hostile}", ("a", hostile), ((hostile, "1"),))
    card = Card(hostile, hostile, (("before", tmp_path / "large.png"),))
    page = write_gallery(tmp_path / "page.html", hostile, [hostile], [table], [Section(hostile, (card,))]).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 10
    assert 'src="data:image/jpeg;base64,' in page
    assert page.rstrip().endswith("</html>")


def test_thumbnails_are_small_and_small_pictures_stay_as_they_are(tmp_path: Path):
    Image.effect_noise((600, 300), 90).convert("RGB").save(tmp_path / "large.png")
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "small.png")
    assert len(thumbnail(tmp_path / "large.png")) < 100_000
    assert thumbnail(tmp_path / "small.png").startswith("data:image/png")
