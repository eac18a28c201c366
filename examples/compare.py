"""
Compare methods, languages, data sizes, seeds, test sets and query perturbations, and write a report.

Without arguments, it runs a small study on English-Swahili sentence pairs and questions written for this project.

    python examples/compare.py

With your own settings:

    python examples/compare.py --config study.yaml --output_dir outputs/study

Publish a finished study as a dataset, with the scores of every method on every query:

    python examples/compare.py --report_only --push_to_hub NAMESPACE/NAME

Finished cells do not run again: after an interruption, the same command continues. Studies with the same `--cells`
folder share results, and several processes may work on one study.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hf_optical.cli import compare


STUDIES = Path(__file__).parent / "studies"


def main() -> None:
    compare.main(sys.argv[1:], default_config=STUDIES / "demo.yaml")


if __name__ == "__main__":
    main()
