from __future__ import annotations

import json

import pytest
from tiny import DEMO, tiny_checkpoint

from hf_optical import OTDistillationConfig
from hf_optical.errors import DataError
from hf_optical.studies.plan import Inputs, TestCell, TrainingCell, essential, plan


def cells(config, kind):
    return [cell for cell in plan(config, Inputs(config)) if isinstance(cell, kind)]


def keys(config):
    return [cell.key for cell in plan(config, Inputs(config))]


def test_every_combination_is_a_cell(load):
    config = load(
        methods={"before": {"kind": "zero_shot"}, "OT": {"kind": "trained"}, "ceiling": {"kind": "ceiling"}},
        sizes=[10, 20],
        seeds=[1, 2],
        perturbations={"typos": [0.1, 0.2]},
    )
    training, tests = cells(config, TrainingCell), cells(config, TestCell)
    assert [(cell.size, cell.seed, cell.pairs) for cell in training] == [
        (10, 1, 10),
        (10, 2, 10),
        (20, 1, 20),
        (20, 2, 20),
    ]
    assert len({cell.key for cell in training}) == 4
    # Human translations are not perturbed.
    by_method = {name: [cell for cell in tests if cell.method.name == name] for name in config.methods}
    assert {name: len(found) for name, found in by_method.items()} == {"before": 3, "OT": 12, "ceiling": 1}
    assert {cell.corpus for cell in by_method["OT"]} == {"sentences"}
    assert {(cell.corpus, cell.seed, cell.languages) for cell in by_method["before"]} == {(None, None, ("sw",))}
    assert [cell.strength for cell in by_method["before"]] == [0.0, 0.1, 0.2]
    assert len({cell.key for cell in tests}) == len(tests)


def test_test_cells_follow_their_training_cell(load):
    planned = plan(config := load(sizes=[10, 20]), Inputs(config))
    kinds = "".join("T" if isinstance(cell, TrainingCell) else "q" for cell in planned)
    assert kinds == "qTqTqq"
    assert planned[2].training is planned[1]


def test_sizes_above_the_number_of_pairs_use_all_pairs(load):
    all_of_them, too_many = cells(load(sizes=[None, 10_000]), TrainingCell)
    assert all_of_them.key == too_many.key and all_of_them.pairs == too_many.pairs == 720
    assert (all_of_them.size, too_many.size) == (None, 10_000)


def test_seeds_multiply_only_random_cells(load):
    methods = {"words": {"kind": "lexicon"}, "new": {"kind": "untrained_pack"}}
    assert {cell.seed for cell in cells(load(methods=methods, seeds=[1, 2], sizes=[None]), TestCell)} == {None}
    assert {cell.seed for cell in cells(load(methods=methods, seeds=[1, 2], sizes=[9]), TestCell)} == {1, 2}


def test_samples_are_nested(load):
    inputs = Inputs(load())
    small, large = ([pair["index"] for pair in inputs.pairs("sentences", "sw", n, seed=1)] for n in (10, 25))
    assert large[:10] == small and len(set(large)) == 25
    assert [pair["index"] for pair in inputs.pairs("sentences", "sw", 10, seed=2)] != small


def test_names_do_not_change_keys(load):
    before = keys(load())
    methods = {"a": {"kind": "zero_shot"}, "b": {"kind": "trained", "method": "ot"}, "c": {"kind": "ceiling"}}
    assert keys(load(name="other", title="Other", methods=methods, measures=["AP"])) == before


def test_training_inputs_change_the_key(load):
    changes = (
        {},
        {"training": {"max_steps": 3, "use_cpu": True}},
        {"sizes": [31]},
        {"seeds": [7]},
        {"corpora": {"sentences": {"sw": "validation.jsonl"}}},
    )
    found = {cell.key for own in changes for cell in cells(load(**own), TrainingCell)}
    assert len(found) == len(changes)


def test_the_teacher_changes_every_key(load, tmp_path):
    before = keys(load())
    teacher = tiny_checkpoint(tmp_path / "teacher", seed=5)
    assert not set(before) & set(keys(load(teacher=str(teacher))))


def test_keys_depend_on_file_contents_not_names(load, tmp_path):
    pairs = (DEMO / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(pairs), encoding="utf-8")
    corpora = {"sentences": {"sw": str(other)}}
    assert keys(load()) == keys(load(corpora=corpora))
    other.write_text("".join(pairs[:-1]), encoding="utf-8")
    assert keys(load()) != keys(load(corpora=corpora))


def test_dictionaries_change_the_key(load, tmp_path):
    files = [tmp_path / name for name in ("one.txt", "two.txt")]
    for file, word in zip(files, ("water", "milk"), strict=True):
        file.write_text(f"maji\t{word}\n", encoding="utf-8")
    given = [{}, *({"dictionary": {"sw": str(file)}} for file in files)]
    methods = {str(number): {"kind": "trained", **own} for number, own in enumerate(given)}
    before = [cell.key for cell in cells(load(methods=methods), TrainingCell)]
    files[1].write_text("maji\twater and more\n", encoding="utf-8")
    after = [cell.key for cell in cells(load(methods=methods), TrainingCell)]
    assert len({*before, *after}) == 4 and before[:2] == after[:2]


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "translation", "model": "MODEL"},
        {"kind": "bm25", "translator": "MODEL"},
        {"kind": "late_interaction", "model": "MODEL"},
        {"kind": "trained", "init_pack": "MODEL"},
        {"kind": "untrained_pack", "init_pack": "MODEL"},
    ],
)
def test_contents_of_models_that_a_method_names_change_the_key(load, tmp_path, method):
    model = tiny_checkpoint(tmp_path / "model")
    named = {name: str(model) if value == "MODEL" else value for name, value in method.items()}
    before = keys(load(methods={"own": named}))
    tiny_checkpoint(model, seed=5)
    assert not set(before) & set(keys(load(methods={"own": named})))
    with pytest.raises(OSError, match="no/such-model"):
        keys(load(methods={"own": {name: value.replace("MODEL", "no/such-model") for name, value in method.items()}}))


def test_the_pack_that_a_dense_peer_takes_new_words_from_changes_the_key(load, tmp_path):
    pack = tiny_checkpoint(tmp_path / "pack")
    changes = {"methods": {"peer": {"kind": "dense_peer", "new_words": 9}}, "training": {"init_pack": str(pack)}}
    before = keys(load(**changes))
    tiny_checkpoint(pack, seed=5)
    assert not set(before) & set(keys(load(**changes)))


def test_the_folder_of_a_pack_does_not_change_the_key(load, tmp_path):
    packs = [tiny_checkpoint(tmp_path / name) for name in ("one", "two")]
    one, two = ({"OT": {"kind": "trained", "init_pack": str(pack)}} for pack in packs)
    assert keys(load(methods=one)) == keys(load(methods=two)) != keys(load(methods={"OT": {"kind": "trained"}}))


def test_languages_with_equal_sources_have_their_own_data(load, tmp_path):
    rows = [json.loads(line)["translation"] for line in (DEMO / "validation.jsonl").read_text("utf-8").splitlines()]
    file = tmp_path / "all.jsonl"
    file.write_text("".join(json.dumps({"translation": {**row, "lo": row["sw"][::-1]}}) + "\n" for row in rows))
    source = {"bitext": str(file)}
    config = load(
        corpora={"all": {"sw": str(file), "lo": str(file)}},
        tests={"pairs": {"sw": source, "lo": source}},
        languages=["sw", "lo"],
    )
    inputs = Inputs(config)
    one, other = ([query.text for query in inputs.test_set("pairs", code).queries.values()] for code in ("sw", "lo"))
    assert other == [text[::-1] for text in one]
    assert inputs.pairs("all", "lo")[0]["translation"]["lo"] == inputs.pairs("all", "sw")[0]["translation"]["sw"][::-1]


def test_only_settings_that_affect_training_enter_the_key():
    kept = essential({"method": "greedy", "use_cpu": True, "max_steps": 3}, ("sw",))
    # Our own defaults may change between versions.
    assert kept["method"] == "greedy" and kept["epsilon"] == OTDistillationConfig(language="sw").epsilon
    assert kept["max_steps"] == 3 and kept["learning_rate"] == 2e-3 and kept["num_train_epochs"] == 3
    assert essential({"num_train_epochs": 2.0}, ("sw",))["num_train_epochs"] == 2
    assert essential({}, ("sw",))["num_train_epochs"] == {"sentences": 2000, "at_most": 3}
    assert not {"use_cpu", "output_dir", "language", "seed", "weight_decay"} & kept.keys()


def test_language_sets_need_a_corpus_with_all_languages(load, tmp_path):
    rows = [json.loads(line)["translation"] for line in (DEMO / "train.jsonl").read_text("utf-8").splitlines()[:40]]
    file = tmp_path / "lo.jsonl"
    file.write_text("".join(json.dumps({"translation": {"en": r["en"], "lo": r["sw"][::-1]}}) + "\n" for r in rows))
    config = load(
        corpora={"both": {"sw": "train.jsonl", "lo": str(file)}, "one": {"sw": "validation.jsonl"}},
        tests={"pairs": {"sw": {"bitext": "validation.jsonl"}, "lo": {"bitext": str(file)}}},
        language_sets=[["sw"], ["sw", "lo"]],
        methods={"OT": {"kind": "trained"}, "words": {"kind": "lexicon"}},
    )
    found = [(cell.corpus, cell.languages, cell.pairs) for cell in cells(config, TrainingCell)]
    assert found == [("both", ("sw",), 30), ("both", ("sw", "lo"), 60), ("one", ("sw",), 30)]
    asked = [(cell.corpus, cell.languages, cell.language) for cell in cells(config, TestCell)]
    assert asked[:3] == [("both", ("sw",), "sw"), ("both", ("sw", "lo"), "sw"), ("both", ("sw", "lo"), "lo")]
    assert asked[4:] == [("both", ("sw",), "sw"), ("both", ("lo",), "lo"), ("one", ("sw",), "sw")]


def test_samples_of_queries_and_documents_are_nested(load):
    whole, some = ({"folder": "retrieval", **own} for own in ({}, {"queries": 20, "pool": 60}))
    config = load(tests={"whole": {"sw": whole}, "some": {"sw": some}, "more": {"sw": {**some, "queries": 30}}})
    inputs = Inputs(config)
    whole, some, more = (inputs.test_set(name, "sw") for name in config.tests)
    assert len(some.queries) == 20 and len(some.corpus) == 60 and some.qrels.keys() == some.queries.keys()
    assert some.queries.items() <= more.queries.items() <= whole.queries.items()
    assert some.corpus.items() <= whole.corpus.items()
    assert all(document in some.corpus for judged in some.qrels.values() for document in judged)
    assert list(some.queries) == [key for key in whole.queries if key in some.queries]


def test_sentence_pairs_as_a_test_set(load):
    inputs = Inputs(load(tests={"pairs": {"sw": {"bitext": "validation.jsonl", "queries": 10}}}))
    dataset = inputs.test_set("pairs", "sw")
    assert len(dataset.queries) == 10 and len(dataset.corpus) > 10
    assert dataset is inputs.test_set("pairs", "sw")


def test_missing_languages_and_models_raise_errors(load):
    corpora = {"sentences": {"yo": "train.jsonl"}}
    config = load(corpora=corpora, tests={"q": {"yo": {"folder": "retrieval"}}})
    with pytest.raises(DataError, match="has no language 'yo'"):
        plan(config, Inputs(config))
    with pytest.raises(OSError, match="no/such-model"):
        keys(load().model_copy(update={"teacher": "no/such-model"}))
