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
        sys.exit("\nstopped; finished cells are kept, and the same command continues")
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
        print(f"Published at {url}")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=STUDIES / "demo.yaml", help="YAML file of the study.")
    parser.add_argument("--output_dir", type=Path, help="Output folder. Default: outputs/NAME of the study.")
    parser.add_argument("--cells", type=Path, help="Folder of finished cells. Default: OUTPUT_DIR/cells.")
    parser.add_argument("--data_dir", type=Path, help="Folder of the study's paths. Default: its data_dir.")
    parser.add_argument("--dry_run", action="store_true", help="Print the plan and stop.")
    parser.add_argument("--report_only", action="store_true", help="Report finished cells without running others.")
    parser.add_argument("--push_to_hub", metavar="REPO", help="Dataset repository on the Hub to publish to.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--license", help="Licence of the dataset, a Hub identifier such as cc-by-4.0.")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
