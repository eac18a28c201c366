"""`python -m hf_optical`, the same as `hf-optical`."""

from .cli import main


if __name__ == "__main__":
    main()
