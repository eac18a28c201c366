"""
What does plain text of a language add to sentence pairs? Words only, nothing is trained.

    python benchmarks/plain_text.py --language ha --train_file ntrex/ha.jsonl.gz --monolingual_file ha.txt.gz \\
        --eval_dir questions/ha --eval_corpus corpus.jsonl.gz --split train --questions 100 --documents 600

Mean average precision of the words of the pairs, with those of the text known to the repair of typing errors, and with
their rows too; with questions as they are and mistyped (`perturb_queries`, 10 % of the letters). Then the words of the
questions without a row, before and after.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from distillation import add_pair_options, add_question_options
from harness import table

from hf_optical import OpticalModel, OpticalProcessor, load_bitext
from hf_optical.bitext import read_plain_text
from hf_optical.bitext.frequency import count_known
from hf_optical.evaluation import (
    RetrievalEvaluator,
    load_beir,
    paired_randomisation_test,
    perturb_queries,
    sample_pool,
)
from hf_optical.languages import (
    Vocabulary,
    add_adapter,
    add_counts,
    count_words,
    default_lora_config,
    extend_processor,
    learn_from_text,
    learn_vocabulary,
    remove,
    words_without_row,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pair_options(parser)
    parser.add_argument("--monolingual_file", required=True, help="plain text in the language")
    add_question_options(parser)
    parser.add_argument("--questions", type=int, help="ask the first questions only (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)

    data = load_beir(args.eval_dir, args.split, args.eval_corpus)
    keys = list(data.queries)[: args.questions]
    data = replace(
        data, queries={key: data.queries[key] for key in keys}, qrels={key: data.qrels[key] for key in keys}
    )
    data = sample_pool(data, args.documents) if args.documents else data
    model, processor = OpticalModel.from_pretrained(args.base), OpticalProcessor.from_pretrained(args.base)
    evaluator = RetrievalEvaluator(data, OpticalModel.from_pretrained(args.base), processor)
    pairs, texts = load_bitext(args.train_file, args.language), read_plain_text(args.monolingual_file)
    words, counts = (
        learn_vocabulary(model, processor, pairs, args.language),
        count_words(processor, pairs, args.language),
    )
    known = add_counts(counts, count_known(processor, texts))
    frequent = [word for word, count in counts["language"].items() if count > 1]
    more = learn_from_text(model, processor, words, texts, [*frequent, *counts["translations"]])
    questions = {key: query.text for key, query in data.queries.items()}
    mistyped = perturb_queries(questions, "typos", 0.1, seed=0)

    def precisions(vocabulary: Vocabulary, known_words, texts: dict[str, str]) -> dict[str, float]:
        add_adapter(model, args.language, default_lora_config(model, embeddings=False), vocabulary)
        extended = extend_processor(processor, vocabulary.tokens, known_words=known_words)
        found = evaluator.measure_each(evaluator.search(model, extended, queries=texts))["map"]
        remove(model, args.language)
        return found

    rows: list[list] = []
    before: list[dict[str, float]] = []
    for name, vocabulary, known_words in (
        ("pairs", words, counts),
        ("words of the text known to the repair", words, known),
        ("and rows", more, known),
    ):
        own = [precisions(vocabulary, known_words, asked) for asked in (questions, mistyped)]
        before = before or own
        cells = [sum(each.values()) / len(each) for each in own]
        p = [paired_randomisation_test(each, first) if rows else "" for each, first in zip(own, before, strict=True)]
        rows.append([name, len(vocabulary.tokens), cells[0], p[0], cells[1], p[1]])
        print(rows[-1], flush=True)
    print(table(["", "words", "MAP", "p", "MAP mistyped", "p"], rows))
    for name, vocabulary in (("before", words), ("after", more)):
        missing = words_without_row(extend_processor(processor, vocabulary.tokens), questions.values())
        print(f"without a row {name}: {len(missing)}: {' '.join(missing)}")


if __name__ == "__main__":
    main()
