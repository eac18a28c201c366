"""
The service as an ASGI application, for a server of your own or a container:

    INDEX=outputs/index PACKS="outputs/ha outputs/sw" uvicorn --app-dir examples/serve app:app --no-access-log

`hf-optical serve --index outputs/index --pack outputs/ha outputs/sw` does the same without a checkout.
"""

import os

from hf_optical.index import open_index
from hf_optical.retrieval import open_retriever
from hf_optical.serving import create_app


index = open_index(os.environ["INDEX"])
retriever = open_retriever(os.environ.get("PACKS", "").split() or [index.settings.base_model], os.environ.get("BASE"))
app = create_app(retriever, index, token=os.environ.get("HF_OPTICAL_SERVE_TOKEN"))
