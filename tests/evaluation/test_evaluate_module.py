import json
import os
import subprocess
import sys
from pathlib import Path

import ir_measures
import pytest
from ir_measures import AP, RR, P, R, nDCG

from hf_optical.evaluation import evaluate_module_path, evaluate_rows


QRELS = {"q1": {"d1": 1, "d4": 2, "d9": 0}, "q2": {"d2": 1}, "q3": {"d3": 1, "d1": 1}}
RUN = {"q1": {"d1": 2.5, "d2": 3.5, "d4": 1.0, "d9": 2.0}, "q3": {"d3": 0.0, "d2": -1.0}}
NAMES = ["AP", "RR@10", "nDCG@10", "R@100", "P@5"]

# In a process of its own, because `evaluate` reads its settings on import.
SCRIPT = """
import json, sys
import evaluate

module = evaluate.load(sys.argv[1])
calls = json.load(sys.stdin)
answers = []
for call in calls:
    try:
        answers.append(module.compute(**call))
    except ValueError as error:
        answers.append(str(error))
        module = evaluate.load(sys.argv[1])
module.add(prediction=calls[0]["predictions"][0], reference=calls[0]["references"][0])
module.add_batch(predictions=calls[0]["predictions"][1:], references=calls[0]["references"][1:])
print(json.dumps([*answers, module.compute(measures=calls[0]["measures"])]))
"""


def test_module_loads_offline_and_agrees_with_ir_measures(tmp_path):
    predictions, references = evaluate_rows(QRELS, RUN)
    assert predictions[1] == {"documents": [], "scores": []}
    assert references[1] == {"documents": ["d2"], "judgements": [1]}
    tie = [{"documents": ["d2", "d1"], "scores": [0.5, 0.5]}]
    judged = [{"documents": ["d2"], "judgements": [1]}]
    calls = [
        {"predictions": predictions, "references": references, "measures": NAMES},
        {"predictions": predictions, "references": references},
        {"predictions": tie, "references": judged, "measures": ["RR", "map"]},
        {"predictions": [{"documents": ["d2"], "scores": []}], "references": judged},
        {"predictions": [{"documents": ["d2", "d2"], "scores": [1, 2]}], "references": judged},
        {"predictions": tie, "references": judged, "measures": ["f1"]},
    ]
    source = Path(evaluate_module_path()).parents[3]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(source)}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_EVALUATE_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, evaluate_module_path()],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    named, default, tied, lengths, twice, unknown, added = json.loads(done.stdout)
    theirs = ir_measures.calc_aggregate([AP, RR @ 10, nDCG @ 10, R @ 100, P @ 5], QRELS, RUN)
    assert named == pytest.approx({str(measure): value for measure, value in theirs.items()})
    assert list(named) == NAMES and added == named
    assert list(default) == ["map", "mrr@10", "ndcg@10", "recall@100"]
    assert tied == {"RR": 1.0, "map": 1.0}
    assert lengths == "predictions[0] must have unique documents, and as many scores, got ['d2'] and []"
    assert twice == "predictions[0] must have unique documents, and as many scores, got ['d2', 'd2'] and [1.0, 2.0]"
    assert unknown.startswith("unknown measure 'f1'; use map")
