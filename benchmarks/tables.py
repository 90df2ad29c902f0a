"""The published tables, counted again from the verdicts that are kept of every picture.

    python benchmarks/tables.py            # writes the tables beside the rows, and the pictures of docs/images
    python benchmarks/tables.py --check    # says what is not as the rows say, and writes nothing

So a mistake in the statistics is mended without drawing anything. A folder has its rows in an archive, made by ``xz -9e
rows.jsonl``. Those of ``realignkit ablate`` have ``ablation.json``, and ``distances.json`` with the Fréchet distances,
whose features are too big to keep. Of Table I there is a folder for each row, with its pictures' lines packed alike;
``rows.yaml`` says which rows, where they are not those that come with the package.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from alignment import summary, sweep_summary

from realignkit.evaluation.methods import MethodsTable, methods_table, read_methods
from realignkit.evaluation.pictures import PICTURES as PICTURES_OF_A_ROW
from realignkit.evaluation.results import RECORD, ROWS, AblationFolder, kept_lines
from realignkit.evaluation.runs import slug
from realignkit.evaluation.table import CONTROL, AblationTable, tabulate
from realignkit.evaluation.write import comma_separated, markdown, svg
from realignkit.evaluation.write_methods import methods_page, methods_plot
from realignkit.files import atomic_write
from realignkit.frechet import Ratio
from realignkit.named import Named
from realignkit.registry import default_registry

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = {
    "cc500-methods": "cc500-methods.svg",
    "cc500-rewards": "cc500-rewards.svg",
    "cc500-stages": "cc500-stages.svg",
    "stages-validation": "stages.svg",
}


def tables() -> dict[Path, str]:
    """Every file that rows decide, and what it should hold."""
    found = {}
    for folder in sorted(path.parent for path in RESULTS.rglob(f"{ROWS}.xz")):
        if (folder / RECORD).exists():
            table = ablation(folder)
            found[folder / "table.md"], found[folder / "table.csv"] = markdown(table), comma_separated(table)
            if folder.name in PICTURES:
                found[ROOT / "docs" / "images" / PICTURES[folder.name]] = svg(table)
        else:
            lines = kept_lines(folder / ROWS)
            found[folder / "summary.md"] = summary(lines) if "fine" in lines[0] else sweep_summary(lines)
    for folder in sorted({path.parent.parent for path in RESULTS.rglob(f"{PICTURES_OF_A_ROW}.xz")}):
        systems = methods(folder)
        found[folder / "methods.md"] = methods_page(systems)
        if folder.name in PICTURES:
            found[ROOT / "docs" / "images" / PICTURES[folder.name]] = methods_plot(systems)
    return found


def methods(folder: Path) -> MethodsTable:
    """Systems side by side, from what was kept of each one's evaluation."""
    named = folder / "rows.yaml"
    rows = {slug(name): (name, method) for name, method in read_methods(named if named.is_file() else "micro").items()}
    with tempfile.TemporaryDirectory() as unpacked:
        folders = {}
        for called, (name, _) in rows.items():
            folders[name] = Path(unpacked) / called
            folders[name].mkdir()
            (folders[name] / "eval.json").write_bytes((folder / called / "eval.json").read_bytes())
            packed = (folder / called / f"{PICTURES_OF_A_ROW}.xz").read_bytes()
            (folders[name] / PICTURES_OF_A_ROW).write_bytes(lzma.decompress(packed))
        known = default_registry()
        record = json.loads((folder / next(iter(rows)) / "eval.json").read_text(encoding="utf-8"))
        metrics = [
            Named("metric", name, known.info("metric", name).create(**about["options"]))
            for name, about in record["metrics"].items()
        ]
        return methods_table(folders, {name: method for name, method in rows.values()}, metrics)


def ablation(folder: Path) -> AblationTable:
    """The table of an ablation's folder, with the distances that were kept."""
    results = AblationFolder(folder)
    record = results.existing()
    table = tabulate(record, results.read(), control=record.get("control", CONTROL))
    kept = json.loads((folder / "distances.json").read_text(encoding="utf-8"))
    rows = []
    for row in table.rows:
        far = kept["rows"][row.name]
        relative = None if far["ratio"] is None else Ratio(far["ratio"], far["low"], far["high"])
        rows.append(replace(row, frechet=far["frechet"], relative=relative))
    return replace(table, rows=tuple(rows), reference=kept["reference"])


def main() -> int:
    """Parse and run; 1 where something is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    stale = {
        path: text for path, text in tables().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        print(path.relative_to(ROOT), "is stale" if arguments.check else "written")
        if not arguments.check:
            atomic_write(path, text)
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
