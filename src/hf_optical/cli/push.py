from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .parser import Parser


DESCRIPTION = """\
Upload a pack, a model, a saved retriever or a study to the Hub, with its card. Log in first: `hf auth login`.

    hf-optical push outputs/ha namespace/minilm-ha --license cc-by-4.0
    hf-optical push outputs/study namespace/study --config study.yaml
"""


def main(argv: Sequence[str]) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    options = {"private": args.private or None, "license": args.license, "commit_message": args.message}
    with parser.input_errors():
        if args.config:
            from ..studies import Store, load_study
            from ..studies.hub_dataset import publish_study
            from ..studies.runner import load_records

            config = load_study(args.config, args.data_dir)
            records = load_records(config, Store(args.folder / "cells"))
            url = str(publish_study(args.folder, args.repo_id, config, records, **options))
        else:
            from ..training.pushing import push_folder

            url = str(push_folder(args.folder, args.repo_id, **options))
    print(f"Published at {url}")


def make_parser() -> Parser:
    parser = Parser("push", DESCRIPTION, usage="hf-optical push FOLDER NAMESPACE/NAME [options]")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of a pack, model, retriever or study")
    parser.add_argument("repo_id", metavar="NAMESPACE/NAME", help="repository on the Hub")
    group = parser.add_argument_group("repository")
    group.add_argument("--private", action="store_true", help="make a new repository private")
    group.add_argument("--license", metavar="ID", help="licence for the card, such as cc-by-4.0 (packs and studies)")
    group.add_argument("--message", metavar="TEXT", help="commit message")
    group = parser.add_argument_group("study")
    group.add_argument("--config", type=Path, metavar="FILE", help="YAML file of the study")
    group.add_argument("--data_dir", type=Path, metavar="FOLDER", help="folder of its paths (default: its data_dir)")
    return parser
