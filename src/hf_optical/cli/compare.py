from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from .parser import Parser


DESCRIPTION = """\
Compare methods, languages, data sizes, seeds, test sets and perturbed queries as one YAML file describes, and
write a report. A stopped study continues with the same command.

    hf-optical compare --config study.yaml
"""


def main(argv: Sequence[str], default_config: Path | None = None) -> None:
    """Run the command; `default_config` is the study to run without `--config`."""
    parser = make_parser(default_config)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with parser.input_errors():
        from ..studies import Store, Study, load_study
        from ..studies.hub_dataset import publish_study
        from ..studies.report import write_report

        config = load_study(args.config, args.data_dir)
        output_dir = args.output_dir or Path("outputs") / config.name
        study = Study(config, Store(args.cells or output_dir / "cells"))
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
    names = {failure.cell for failure in failures}
    unfinished = [f"failed: {each}" for each in failed]
    unfinished += [f"not finished: {cell}" for cell in study.todo() if str(cell) not in names]
    records = study.records()
    try:
        print(f"\nThe report is in {write_report(output_dir, config, records, unfinished=unfinished)}")
        if config.keep_runs:
            study.write_runs(output_dir / "runs")
    except (ImportError, ValueError) as error:
        failed.append(f"report: {error}")
    if failed:
        listed = "\n  ".join(failed)
        what = {0: "the report", 1: "1 cell"}.get(len(failures), f"{len(failures)} cells")
        sys.exit(f"error: {what} failed, see {output_dir / 'study.log'}:\n  {listed}")
    if args.push_to_hub:
        with parser.input_errors():
            private = args.private or None
            url = publish_study(output_dir, args.push_to_hub, config, records, license=args.license, private=private)
        print(f"Published at {url}")


def make_parser(default_config: Path | None) -> Parser:
    parser = Parser("compare", DESCRIPTION, usage="hf-optical compare --config FILE [options]")
    group = parser.add_argument_group("study")
    group.add_argument(
        "--config",
        type=Path,
        default=default_config,
        required=default_config is None,
        metavar="FILE",
        help="YAML file of the study",
    )
    group.add_argument("--data_dir", type=Path, metavar="FOLDER", help="folder of its paths (default: its data_dir)")
    group.add_argument("--dry_run", action="store_true", help="print the plan and stop")
    group.add_argument("--report_only", action="store_true", help="report finished cells without running others")
    group = parser.add_argument_group("output")
    group.add_argument("--output_dir", type=Path, metavar="FOLDER", help="output folder (default: outputs/NAME)")
    group.add_argument("--cells", type=Path, metavar="FOLDER", help="finished cells (default: OUTPUT_DIR/cells)")
    group.add_argument("--push_to_hub", metavar="REPO", help="dataset repository on the Hub to publish to")
    group.add_argument("--private", action="store_true", help="make a new repository private")
    group.add_argument("--license", metavar="ID", help="licence of the dataset, a Hub identifier such as cc-by-4.0")
    return parser
