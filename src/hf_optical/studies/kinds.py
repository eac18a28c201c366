"""How reports and figures treat each kind of method."""

from __future__ import annotations


# Kinds that others are compared with but that do not compete -> description and line style. Methods that search with
# human translations of the queries, which users do not have, get the kind `"human"`.
REFERENCES = {
    "zero_shot": ("untrained student", ":"),
    "ceiling": ("teacher on human translations", "--"),
    "human": ("on human translations", "-."),
}
# Kinds that learn each language separately, even if several are trained together.
SEPARATE = ("lexicon", "bm25")
# Kinds whose first method has the same colour in all studies.
FIXED_COLOURS = ("ot", "code_switch", "hybrid", "greedy", "sentence")
# The kind whose comparisons a report describes in full.
DESCRIBED = "ot"
