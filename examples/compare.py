"""
Compare methods, languages, data sizes, seeds, test sets and perturbed queries by one file, and write a report.

Without arguments, the embedded study: English-Swahili sentence pairs and questions written for this project.

    python examples/compare.py

With your own:

    python examples/compare.py --config study.yaml --output_dir outputs/study

A study that is done can be published as a dataset, with what every method scored with every query:

    python examples/compare.py --report_only --push_to_hub NAMESPACE/NAME

What is done is not done again: stopped at any moment, the same command goes on. Studies that share `--cells` share
what they have in common, and several processes may work at one study.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from hf_optical.studies import Store, Study, load_study
from hf_optical.studies.hub_dataset import publish_study
from hf_optical.studies.report import write_report


STUDIES = Path(__file__).parent / "studies"


def main() -> None:
    args = parse(sys.argv[1:])
    try:
        config = load_study(args.config, args.data_dir)
        output_dir = args.output_dir or Path("outputs") / config.name
        study = Study(config, Store(args.cells or output_dir / "cells"))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    if args.dry_run:
        print(study.describe())
        return
    failures = []
    try:
        if not args.report_only:
            failures = study.run(output_dir)
    except KeyboardInterrupt:
        sys.exit("\nstopped; what is done is kept, and the same command goes on")
    failed = [f"{failure.cell}: {failure.error}" for failure in failures]
    records = study.records()
    try:
        print(f"\nThe report is in {write_report(output_dir, config, records, failed=failed)}")
    except (ImportError, ValueError) as error:
        failed.append(f"report: {error}")
    if failed:
        listed = "\n  ".join(failed)
        count = "1 cell" if len(failed) == 1 else f"{len(failed)} cells"
        sys.exit(f"error: {count} failed, see {output_dir / 'study.log'}:\n  {listed}")
    if args.push_to_hub:
        try:
            private = args.private or None
            url = publish_study(output_dir, args.push_to_hub, config, records, license=args.license, private=private)
        except (OSError, ValueError) as error:
            sys.exit(f"error: {error}")
        print(f"It is published: {url}")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=STUDIES / "demo.yaml", help="The study, a YAML file.")
    parser.add_argument("--output_dir", type=Path, help="Where to. Default: outputs/NAME of the study.")
    parser.add_argument("--cells", type=Path, help="Where finished cells are kept. Default: OUTPUT_DIR/cells.")
    parser.add_argument("--data_dir", type=Path, help="What paths are relative to, in place of the study's own.")
    parser.add_argument("--dry_run", action="store_true", help="Say what there is to do, and stop.")
    parser.add_argument("--report_only", action="store_true", help="Report what is done, and do nothing more.")
    parser.add_argument("--push_to_hub", metavar="REPO", help="Publish it as this dataset repository on the Hub.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--license", help="Licence of what is published, an identifier of the Hub such as cc-by-4.0.")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
