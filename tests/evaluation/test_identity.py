from __future__ import annotations

from pathlib import Path

from pydantic import Field

from realignkit.contracts import Options
from realignkit.errors import REDACTED
from realignkit.evaluation.identity import settings_of
from realignkit.named import Named
from tests.evaluation.judges import Redness


class Chosen(Redness):
    class Options(Options):
        device: str = "auto"
        api_key: str = ""
        folder: str = ""
        vqa_options: dict[str, object] = Field({})


def test_options_that_numbers_depend_on_without_keys_and_devices(tmp_path: Path):
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "a.json").write_text("1")
    options = {
        "api_key": "sk-very-secret",
        "vqa_options": {"api_key": "sk-other-secret", "device": "cuda", "model": "x"},
    }
    metric = Chosen(folder=str(tmp_path / "reference"), device="cuda", **options)
    settings = settings_of(Named("metric", "chosen", metric))
    assert "secret" not in str(settings)
    assert settings["options"] == {
        "api_key": REDACTED,
        "folder": str(tmp_path / "reference"),
        "vqa_options": {"api_key": REDACTED, "model": "x"},
    }
    assert settings["contents"]["folder"].startswith("1 file, ")
    assert settings["identity"] == {"template": "is it red?"}
