"""Files that a release is made of agree with each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import date

import yaml
from tiny import REPOSITORY

import hf_optical


METADATA = """
import json, setuptools
from distutils.core import run_setup
setup = run_setup("setup.py", stop_after="init")
print(json.dumps([setup.get_version(), setup.metadata.long_description, setup.metadata.project_urls]))
"""
LINK = re.compile(r"\]\(([^)\s]+)\)")


def metadata(site: str) -> list:
    environment = {**os.environ, "HF_OPTICAL_SITE": site}
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", METADATA],
        cwd=REPOSITORY,
        env=environment,
        check=True,
        capture_output=True,
    )
    return json.loads(output.stdout)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def test_readme_has_no_dead_links_on_the_package_index():
    version, text, urls = metadata("")
    assert version == hf_optical.__version__ and urls == {}
    assert all("://" in target or target.startswith("#") for target in LINK.findall(prose(text)))
    assert "```bash" in text and text.startswith("# hf_optical")


def test_readme_on_the_package_index_leads_to_pages_of_the_site():
    _, text, urls = metadata("https://example.org/docs/")
    assert urls == {"Documentation": "https://example.org/docs"}
    targets = LINK.findall(prose(text))
    assert all("://" in target or target.startswith("#") for target in targets)
    pages = [target.removeprefix("https://example.org/docs/").partition("#")[0] for target in targets]
    pages = [page for page in pages if "://" not in page]
    assert pages
    for page in pages:
        places = [page, page.rstrip("/") + ".md", page.rstrip("/") + ".ipynb", page + "README.md", page + "index.md"]
        assert any((REPOSITORY / "docs" / place).is_file() for place in places), page


def test_changelog_and_citation_have_the_version_of_the_package():
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hf_optical.__version__
    versions = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", changelog, flags=re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    for version, day in versions[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", version) and date.fromisoformat(day)
    if "dev" not in hf_optical.__version__:
        assert versions[1][0] == hf_optical.__version__ and "date-released" in citation
    sections = set(re.findall(r"^### (.*)$", changelog, flags=re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_citation_file_is_valid():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format"]
    result = subprocess.run([*command, "CITATION.cff"], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_links_between_pages_lead_somewhere():
    """The site makes the reference and the list of all messages."""
    for page in (REPOSITORY / "docs").rglob("*.md"):
        for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
            path, made = target.partition("#")[0], ("/reference/" in target or target == "all_messages.md")
            assert made or "://" in target or (page.parent / path).exists(), f"{page}: {target}"


def test_pages_are_short():
    """At most a thousand words outside of tables and code; measurements may be longer."""
    docs = REPOSITORY / "docs"
    pages = [page for page in docs.rglob("*.md") if page.relative_to(docs).parts[0] != "measurements"]
    assert pages
    for page in pages:
        text = re.sub(r"^\|.*$", "", prose(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
        assert len(text.split()) <= 1000, page
