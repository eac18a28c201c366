"""Tiny real models: tokenizers built from the embedded sentences, encoders with random weights."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


# No network access, except to a Hub on this machine. huggingface_hub reads this variable once, at import.
if not os.environ.get("HF_ENDPOINT", "").startswith("http://127.0.0.1:"):
    os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast, set_seed  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from hf_optical import OpticalConfig, OpticalModel, OpticalProcessor  # noqa: E402


transformers_logging.disable_progress_bar()

REPOSITORY = Path(__file__).parent.parent
DEMO = REPOSITORY / "examples" / "data"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"

# Name in TrainingArguments and in the methods of models; renamed in transformers 5.23.
_NEW = hasattr(PreTrainedModel, "activation_checkpointing_enable")
CHECKPOINTING = "activation_checkpointing" if _NEW else "gradient_checkpointing"

# Architecture -> (settings of a tiny model, kind of tokenizer).
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


def tiny_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """
    A tokenizer with some hundred entries for the embedded English and Swahili sentences.

    The vocabulary is counted rather than trained because two of the three trainers are not deterministic.
    """
    texts = [text for pair in demo_pairs() for text in pair.values()]
    names = dict(
        zip(("pad", "unk", "cls", "sep", "mask"), ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), strict=True)
    )
    if kind == "wordpiece":
        words, characters = count(text.lower() for text in texts)
        entries = [*names.values(), *characters, *(f"##{character}" for character in characters), *words]
        vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
    elif kind == "unigram":
        names = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
        words, characters = count(texts)
        pieces = dict.fromkeys((*names.values(), "▁"), 0.0)
        pieces |= {f"▁{word}": -5.0 - rank / 100 for rank, word in enumerate(words)}
        pieces |= dict.fromkeys(characters, -12.0)
        tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=list(names).index("unk")))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=list(names.values()), initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
    opening, closing = names["cls"], names["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{opening} $A {closing}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (opening, closing)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in names.items()}
    )


def count(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """The 400 most frequent words and all characters."""
    texts = list(texts)
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    return sorted(words, key=lambda word: (-words[word], word))[:400], sorted(set("".join(texts)) - {" "})


def tiny_checkpoint(
    folder: Path, architecture: str = "bert", *, projection_dim: int | None = None, seed: int = 0, **roles
) -> Path:
    """Write a complete tiny late-interaction checkpoint with weights drawn from `seed`."""
    settings, kind = ARCHITECTURES[architecture]
    tokenizer = tiny_tokenizer(kind)
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


# Thai is written without spaces between words.
THAI = {
    "น้ำอยู่ในตลาด": "the water is in the market",
    "เด็กดื่มน้ำ": "the child drinks water",
    "แม่ไปตลาด": "mother goes to the market",
    "เด็กไปโรงเรียน": "the child goes to school",
    "แม่ดื่มน้ำ": "mother drinks water",
    "ครูอยู่ในโรงเรียน": "the teacher is in the school",
    "เด็กอยู่ในตลาด": "the child is in the market",
    "ครูไปตลาด": "the teacher goes to the market",
    "น้ำอยู่ในโรงเรียน": "the water is in the school",
    "แม่อยู่ในโรงเรียน": "mother is in the school",
    "ครูดื่มน้ำ": "the teacher drinks water",
    "แม่ไปโรงเรียน": "mother goes to school",
}
