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
call = json.load(sys.stdin)
named = module.compute(**call)
module.add(prediction=call["predictions"][0], reference=call["references"][0])
module.add_batch(predictions=call["predictions"][1:], references=call["references"][1:])
print(json.dumps([named, module.compute(measures=call["measures"])]))
"""


TIE = [{"documents": ["d2", "d1"], "scores": [0.5, 0.5]}]
JUDGED = [{"documents": ["d2"], "judgements": [1]}]


def test_module_agrees_with_ir_measures(tmp_path):
    from hf_optical.evaluation.evaluate_module.hf_optical_retrieval import HfOpticalRetrieval

    def compute(**call):
        return HfOpticalRetrieval(cache_dir=str(tmp_path)).compute(**call)

    predictions, references = evaluate_rows(QRELS, RUN)
    assert predictions[1] == {"documents": [], "scores": []}
    assert references[1] == {"documents": ["d2"], "judgements": [1]}
    theirs = ir_measures.calc_aggregate([AP, RR @ 10, nDCG @ 10, R @ 100, P @ 5], QRELS, RUN)
    named = compute(predictions=predictions, references=references, measures=NAMES)
    assert list(named) == NAMES and named == pytest.approx({str(each): value for each, value in theirs.items()})
    default = compute(predictions=predictions, references=references)
    assert list(default) == ["map", "mrr@10", "ndcg@10", "recall@100"]
    assert compute(predictions=TIE, references=JUDGED, measures=["RR", "map"]) == {"RR": 1.0, "map": 1.0}
    for documents, scores in ((["d2"], []), (["d2", "d2"], [1.0, 2.0])):
        with pytest.raises(ValueError, match=r"predictions\[0\] must have unique documents, and as many scores, got "):
            compute(predictions=[{"documents": documents, "scores": scores}], references=JUDGED)
    with pytest.raises(ValueError, match="unknown measure 'f1'; use map"):
        compute(predictions=TIE, references=JUDGED, measures=["f1"])


@pytest.mark.slow
def test_module_loads_offline(tmp_path):
    predictions, references = evaluate_rows(QRELS, RUN)
    call = {"predictions": predictions, "references": references, "measures": NAMES}
    source = Path(evaluate_module_path()).parents[3]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(source)}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_EVALUATE_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, evaluate_module_path()],
        input=json.dumps(call),
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    named, added = json.loads(done.stdout)
    theirs = ir_measures.calc_aggregate([AP, RR @ 10, nDCG @ 10, R @ 100, P @ 5], QRELS, RUN)
    assert named == pytest.approx({str(measure): value for measure, value in theirs.items()})
    assert list(named) == NAMES and added == named
