"""
Train, evaluate and publish packs of many languages on one base, with a card for each and a table of all.

    python examples/zoo.py --data_dir DATA --output_dir outputs/zoo
    python examples/zoo.py --config zoo.yaml --data_dir DATA --push_to_hub NAMESPACE

`examples/zoo.yaml` names the base and the data of each language. A language that fails does not stop the others, and
the same command goes on with those that are not finished. The table is in `README.md` of the output folder.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from hf_optical.hub.language_names import language_name
from hf_optical.studies.study_file import read_yaml


# Options whose values are paths in the data folder.
PATHS = {"train_file", "validation_file", "dictionary", "monolingual_file", "eval_dir", "eval_corpus"}
# Written last, by the evaluation of a run.
RESULTS = "eval_results.json"


def train_command(zoo: dict[str, Any], language: str, data: Path, folder: Path) -> list[str]:
    """The arguments of `hf-optical` that train and evaluate the pack of a language, or go on with it."""
    options = {"student_model": zoo["base"], **zoo.get("options", {}), **zoo["languages"][language]}
    arguments = ["train", "--language", language, "--output_dir", str(folder), "--resume_from_checkpoint", "last"]
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        arguments += [f"--{name}", *(str(data / each) if name in PATHS else str(each) for each in values)]
    return arguments


def run(arguments: list[str]) -> bool:
    """Run `hf-optical`, and return whether it ended well."""
    return subprocess.run([sys.executable, "-m", "hf_optical", *arguments]).returncode == 0


def base_name(zoo: dict[str, Any]) -> str:
    """Name of the base in names of repositories."""
    return re.sub(r"[^\w.-]+", "-", str(zoo["base"]).rstrip("/").rpartition("/")[2])


def overview(zoo: dict[str, Any], output: Path) -> str:
    """A Markdown page with the results of all finished packs."""
    rows = []
    for language in zoo["languages"]:
        folder = output / language
        if not (folder / RESULTS).exists():
            continue
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        numbers = [results.get(f"{prefix}map") for prefix in ("zero_shot_", "eval_", "ceiling_")]
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6
        name = f"[{language_name(language) or language}]({language}/README.md)"
        rows.append([name, *numbers, results.get("gap_closed"), f"{size:.1f} MB"])
    columns = ["", "MAP untrained", "trained", "ceiling", "gap closed", "weights"]
    table = tabulate(rows, columns, tablefmt="pipe", floatfmt=".3f", missingval="–")
    return (
        f"# Language packs on {base_name(zoo)}\n\nEach card says on which questions its pack was tested.\n\n{table}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("zoo.yaml"), help="base and languages")
    parser.add_argument("--data_dir", type=Path, default=Path(), help="folder of the paths in it (default: this one)")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("outputs/zoo"), help="a folder for each language in it"
    )
    parser.add_argument("--languages", nargs="+", metavar="CODE", help="only these of them")
    parser.add_argument("--push_to_hub", metavar="NAMESPACE", help="publish each pack there as BASE-CODE")
    options = parser.parse_args()
    zoo = read_yaml(options.config)
    chosen = options.languages or list(zoo["languages"])
    if unknown := [code for code in chosen if code not in zoo["languages"]]:
        parser.error(f"--languages must be among those of {options.config}, got {', '.join(unknown)}")
    failed = []
    for language in chosen:
        folder = options.output_dir / language
        print(f"== {language} ==", flush=True)
        done = (folder / RESULTS).exists() or run(train_command(zoo, language, options.data_dir, folder))
        if done and options.push_to_hub:
            done = run(["push", str(folder), f"{options.push_to_hub}/{base_name(zoo)}-{language}"])
        if not done:
            failed.append(language)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    page = overview(zoo, options.output_dir)
    (options.output_dir / "README.md").write_text(page, encoding="utf-8")
    print(page)
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed; the messages are above, and the same command tries again")


if __name__ == "__main__":
    main()
