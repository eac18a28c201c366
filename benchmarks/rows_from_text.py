"""
How close do rows from plain text come to the rows that words have from sentence pairs?

    python benchmarks/rows_from_text.py --language ha --train_file ntrex/ha.jsonl.gz --monolingual_file ha.txt.gz

Every fifth word with a row is held out. Each way makes its row from the skip-gram vectors of the text and the words
that are left. The table has the mean cosine with the word's own row, both from the mean of the rows: for all words,
for those that have a known word of similar spelling (`NearestWords`), and for those that have none.

- procrustes: the orthogonal map that `learn_from_text` has (Smith et al. 2017, arXiv 1702.03859).
- ridge: a linear map, least squares with a penalty.
- nearest: the mean row of the five nearest known words by skip-gram vector.
- OMP: the vector as a sum of few known words by orthogonal matching pursuit, and the same sum of their rows (arXiv
  2506.06607).
- Wasserstein-Procrustes: no known words at all. A transport plan between the words and whole English tokens, and an
  orthogonal map, in turns, from a Gromov-Wasserstein plan (arXiv 1805.11222).
- similar word: the row of the word of similar spelling; pieces: the mean of the base's pieces of the word.
"""

from __future__ import annotations

import argparse

import numpy as np
import ot
import torch
from distillation import add_pair_options
from gensim.models import FastText
from harness import table
from sklearn.linear_model import Ridge, orthogonal_mp

from hf_optical import OpticalModel, OpticalProcessor, load_bitext
from hf_optical.bitext import read_plain_text
from hf_optical.languages import learn_vocabulary
from hf_optical.languages.plain_text import _VECTORS, _read, _similar, _unit
from hf_optical.languages.vocabulary import word_embedding


_FREQUENT = 1500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pair_options(parser)
    parser.add_argument("--monolingual_file", required=True, help="plain text in the language")
    parser.add_argument("--min_count", type=int, default=5, help="words of the text that occur less are left out")
    args = parser.parse_args()
    torch.set_num_threads(1)

    model, processor = OpticalModel.from_pretrained(args.base), OpticalProcessor.from_pretrained(args.base)
    pairs = load_bitext(args.train_file, args.language)
    vocabulary = learn_vocabulary(model, processor, pairs, args.language)
    sentences, counts, _ = _read(read_plain_text(args.monolingual_file), processor)
    vectors = FastText(sentences, min_count=args.min_count, workers=1, seed=0, **_VECTORS).wv
    own = {word: row.float().numpy() for word, row in zip(vocabulary.tokens, vocabulary.rows, strict=True)}
    words = [word for word in own if counts[word] >= args.min_count]
    known, out = [word for place, word in enumerate(words) if place % 5], words[::5]
    center = np.mean([own[word] for word in known], 0)
    middle = vectors[known].mean(0)

    rows = _unit(np.stack([own[word] for word in known]) - center)
    source, target = _unit(vectors[known] - middle), _unit(vectors[out] - middle)
    truth = _unit(np.stack([own[word] for word in out]) - center)

    def turn(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        left, _, right = np.linalg.svd(a.T @ b, full_matrices=False)
        return left @ right

    found = {"procrustes": target @ turn(source, rows)}
    for penalty in (3, 10, 30):
        found[f"ridge, penalty {penalty}"] = Ridge(alpha=penalty).fit(source, rows).predict(target)
    nearest = np.argsort(-(target @ source.T), 1)[:, :5]
    found["nearest"] = rows[nearest].mean(1)
    for atoms in (1, 3, 10):
        found[f"OMP, {atoms} words"] = (rows.T @ orthogonal_mp(source.T, target.T, n_nonzero_coefs=atoms)).T

    # No word is known: the most frequent words, and the English tokens that are most frequent in the pairs.
    weight = word_embedding(model).weight.detach().float().numpy()
    english = [row["en"] for row in pairs["translation"]]
    ids = processor.tokenizer(english, add_special_tokens=False)["input_ids"]
    tokens = np.argsort(-np.bincount(np.concatenate(ids), minlength=len(weight)))[:_FREQUENT]
    frequent = [word for word, _ in counts.most_common() if word in vectors][:_FREQUENT]
    a, b = _unit(vectors[frequent] - middle), _unit(weight[tokens] - weight[tokens].mean(0))
    uniform = ot.unif(len(a)), ot.unif(len(b))
    plan = ot.gromov.entropic_gromov_wasserstein(
        a @ a.T, b @ b.T, *uniform, "square_loss", epsilon=5e-3, max_iter=20, solver="PPA"
    )
    for _ in range(10):
        mapping = turn(a, (plan * len(a)) @ b)
        plan = ot.emd(*uniform, 1 - (a @ mapping) @ b.T)
    found["Wasserstein-Procrustes"] = target @ mapping

    spelled = _similar(out, known, np.stack([own[word] for word in known]), processor.tokenizer)
    has_similar = np.array([row is not None for row in spelled])
    found["similar word"] = np.stack([center if row is None else row for row in spelled]) - center
    pieces = [processor.tokenizer(word, add_special_tokens=False)["input_ids"] for word in out]
    found["pieces"] = np.stack([weight[each].mean(0) for each in pieces]) - center
    for name in ("procrustes", "ridge, penalty 10", "nearest", "OMP, 10 words"):
        found[f"{name} and similar word"] = _unit(found[name]) + _unit(found["similar word"])

    lines = []
    for name, made in found.items():
        cosines = (_unit(made) * truth).sum(1)
        lines.append([name, *(float(each.mean()) for each in (cosines, cosines[has_similar], cosines[~has_similar]))])
    print(f"{len(known)} words with a row, {len(out)} held out, of which {has_similar.sum()} have a similar one")
    print(table(["", "all", "with a similar word", "without"], lines))


if __name__ == "__main__":
    main()
