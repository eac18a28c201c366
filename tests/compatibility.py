"""
Run the quick tests with the oldest and the newest libraries that `setup.py` allows, on every Python.

    python tests/compatibility.py FOLDER [--pythons python3.10 ...] [--libraries oldest newest] [--pytest="-n 2"]

Each environment in FOLDER contains `pins.txt` and `tests.log`. torch always has the version in `constraints.txt`
because its builds take gigabytes. Needs `uv`, which finds the oldest compatible versions with wheels.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


REPOSITORY = Path(__file__).parent.parent
OLDEST_PYTHON = 10  # of 3.
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
SHOWN = ("transformers", "peft", "accelerate", "datasets", "huggingface-hub", "torch")
REQUIREMENTS = """
import setuptools
from distutils.core import run_setup
setup = run_setup("setup.py", stop_after="init")
print(*setup.install_requires, *setup.extras_require["test"], sep="\\n")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pythons", nargs="+", metavar="PYTHON", help="default: every installed version from 3.10")
    parser.add_argument("--libraries", nargs="+", choices=RESOLUTIONS, default=list(RESOLUTIONS))
    parser.add_argument("--pytest", metavar="OPTIONS", type=shlex.split, default=["-n", "2"], help="default: -n 2")
    args = parser.parse_args()
    if shutil.which("uv") is None:
        parser.error("uv is not installed; run `pip install uv`")
    columns = ("Python", "libraries", *SHOWN, "passed", "failed", "skipped", "minutes")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    all_passed, above = True, {}
    for python in args.pythons or pythons():
        for libraries in args.libraries:
            version = run("-c", "import platform; print(platform.python_version())", python=python).strip()
            folder = args.folder.absolute() / f"{version}-{libraries}"
            versions = environment(folder, python, libraries)
            if libraries == "oldest":
                above[version] = above_bounds(versions)
            minutes, counts = tests(folder, args.pytest)
            all_passed &= counts["passed"] > 0 and counts["failed"] == 0
            row = (version, libraries, *(versions[name] for name in SHOWN), *counts.values(), f"{minutes:.0f}")
            print(f"| {' | '.join(map(str, row))} |", flush=True)
    for version, libraries in above.items():
        print(f"Python {version}, above the bound in setup.py: {', '.join(libraries) or 'none'}")
    return 0 if all_passed else 1


def pythons() -> list[str]:
    """The newest interpreter of each minor version, on the path or installed by pyenv."""
    minors = range(OLDEST_PYTHON, 100)
    places = [shutil.which(f"python3.{minor}") for minor in minors]
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    places += [str(place) for place in root.glob("versions/3.*/bin/python")]
    found: dict[tuple[int, int], tuple[tuple[int, ...], str]] = {}
    for place in filter(None, places):
        result = subprocess.run(
            [place, "-c", "import sys; print(*sys.version_info[:3])"], capture_output=True, text=True
        )
        version = tuple(map(int, result.stdout.split()))
        if result.returncode == 0 and version[1] in minors:
            found[version[:2]] = max(found.get(version[:2], (version, place)), (version, place))
    return [place for _, (_, place) in sorted(found.items())]


def run(*command: str | Path, python: str | Path = sys.executable) -> str:
    return subprocess.run([python, *command], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout


def uv(*command: str | Path) -> str:
    return run("pip", *command, python="uv")


def bounds() -> list[Requirement]:
    """Requirements in `setup.py`, of the library and of its tests."""
    return [Requirement(line) for line in run("-c", REQUIREMENTS).splitlines()]


def environment(folder: Path, python: str, libraries: str) -> dict[str, str]:
    """Create an environment and return the installed versions by name."""
    shutil.rmtree(folder, ignore_errors=True)
    run("-m", "venv", "--without-pip", folder, python=python)
    required, torch, pins = (folder / f"{name}.txt" for name in ("required", "torch", "pins"))
    required.write_text("".join(f"{one}\n" for one in bounds()))
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    torch.write_text("\n".join(re.findall(r"^torch==.*", constraints, flags=re.MULTILINE)))
    target = ("--python", folder / "bin" / "python")
    uv(
        *(
            "compile",
            "--quiet",
            "--no-build",
            "--no-annotate",
            "--no-header",
            required,
            "--constraints",
            torch,
            *target,
        ),
        *("--resolution", RESOLUTIONS[libraries], "--output-file", pins),
    )
    uv("install", "--quiet", "--compile-bytecode", *target, "--requirements", pins)
    uv("install", "--quiet", *target, "--no-deps", "--editable", REPOSITORY)
    return {one["name"]: one["version"] for one in json.loads(uv("list", "--quiet", "--format", "json", *target))}


def above_bounds(versions: dict[str, str]) -> list[str]:
    """Libraries whose lower bound in `setup.py` could not be installed, with the version in its place."""
    found = []
    for one in bounds():
        version = versions.get(canonicalize_name(one.name))
        lowest = [Version(part.version) for part in one.specifier if part.operator == ">="]
        if one.name != "torch" and version and lowest and Version(version) > lowest[0]:
            found.append(f"{one.name} {version} ({lowest[0]})")
    return found


def tests(folder: Path, options: list[str]) -> tuple[float, dict[str, int]]:
    """Run the quick tests; return the minutes and the counts of results."""
    start, results = time.monotonic(), folder / "results.xml"
    with (folder / "tests.log").open("w") as log:
        subprocess.run(
            [folder / "bin" / "python", "-m", "pytest", "-m", "not slow", *options]
            + ["-p", "no:cacheprovider", f"--junitxml={results}"],
            cwd=REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    counts = {"passed": 0, "failed": 1, "skipped": 0}  # a run without results failed
    if results.is_file():
        suite = ElementTree.parse(results).getroot().find("testsuite")
        counts["failed"], counts["skipped"] = (
            int(suite.get("failures")) + int(suite.get("errors")),
            int(suite.get("skipped")),
        )
        counts["passed"] = int(suite.get("tests")) - counts["failed"] - counts["skipped"]
    return (time.monotonic() - start) / 60, counts


if __name__ == "__main__":
    sys.exit(main())
