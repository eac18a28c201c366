"""Small real models, made on the spot: tokenizers trained on the embedded sentences, encoders with random weights."""

from __future__ import annotations

import json
import os
from pathlib import Path


# Nothing here may reach for the network; huggingface_hub reads this once, at import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, set_seed  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from hf_optical import OpticalConfig, OpticalModel, OpticalProcessor  # noqa: E402


transformers_logging.disable_progress_bar()

REPOSITORY = Path(__file__).parent.parent
DEMO = REPOSITORY / "examples" / "data"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"

SPECIAL = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}
# Architecture -> (settings of a tiny one, kind of tokenizer).
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ARCHITECTURES = {
    "bert": (SMALL, "wordpiece"),
    "distilbert": ({"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}, "wordpiece"),
    "xlm-roberta": ({**SMALL, "type_vocab_size": 1, "max_position_embeddings": 514}, "unigram"),
    "modernbert": (
        {**SMALL, "global_attn_every_n_layers": 2}
        | {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
        "bpe",
    ),
    "deberta-v2": ({**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, "unigram"),
}


def demo_pairs(name: str = "train") -> list[dict[str, str]]:
    lines = (DEMO / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["translation"] for line in lines]


def train_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of 600 entries over the embedded English and Swahili."""
    texts = [text for pair in demo_pairs() for text in pair.values()]
    if kind == "wordpiece":
        special = SPECIAL["bert"]
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    elif kind == "unigram":
        special = SPECIAL["roberta"]
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=600, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    else:
        special = SPECIAL["bert"]
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(texts, trainer)
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL["bert"], strict=True))
    if special is SPECIAL["roberta"]:
        names = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    opening, closing = names["cls"], names["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{opening} $A {closing}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (opening, closing)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in names.items()}
    )


def tiny_checkpoint(
    folder: Path, architecture: str = "bert", *, projection_dim: int | None = None, seed: int = 0, **roles
) -> Path:
    """Writes a whole tiny late-interaction checkpoint; another `seed` gives other weights."""
    settings, kind = ARCHITECTURES[architecture]
    tokenizer = train_tokenizer(kind)
    encoder_config = AutoConfig.for_model(
        architecture, **settings, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    set_seed(seed)
    model = OpticalModel(
        OpticalConfig(encoder_config=encoder_config, projection_dim=projection_dim),
        AutoModel.from_config(encoder_config),
    )
    model.save_pretrained(folder)
    OpticalProcessor(tokenizer, **roles).save_pretrained(folder)
    return folder


def weights(model: OpticalModel) -> dict[str, torch.Tensor]:
    """A copy of every weight."""
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}
