"""Conditions in SQL as filters of Qdrant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import sqlglot
from sqlglot import exp

from .conditions import condition_error


# A filter in the JSON of Qdrant's REST interface.
Filter: TypeAlias = dict[str, Any]

_RANGES: dict[type, str] = {exp.GT: "gt", exp.GTE: "gte", exp.LT: "lt", exp.LTE: "lte"}
_COMPARISONS: tuple[Any, ...] = (exp.EQ, exp.NEQ, *_RANGES)
# `5 < year` is `year > 5`.
_TURNED = {"gt": "lt", "gte": "lte", "lt": "gt", "lte": "gte"}


def qdrant_filter(where: str, columns: Mapping[str, str]) -> Filter:
    """
    Translate a condition.

    As in SQL, a comparison with a missing value is neither true nor false, and `NOT` does not make it true.

    Args:
        where (`str`): Comparisons, `IN`, `BETWEEN` and `IS NULL`, joined by `AND`, `OR` and `NOT`.
        columns (mapping of `str` to `str`): Name of each column -> `"text"`, `"number"` or `"flag"`.

    Raises:
        ValueError: If the condition does not parse, names an unknown column, or cannot be translated.
    """
    try:
        return _translate(sqlglot.parse_one(where, into=exp.Condition), columns, negated=False)
    except (sqlglot.errors.SqlglotError, ValueError) as error:
        details = getattr(error, "errors", None)
        raise ValueError(condition_error(where, details[0]["description"] if details else str(error))) from error


def payload_key(column: str) -> str:
    """Where the payload of a point has the values of a column."""
    return column if column in ("id", "title", "text") else f'columns."{column}"'


def _translate(node: Any, columns: Mapping[str, str], negated: bool) -> Filter:
    again = partial(_translate, columns=columns)
    if isinstance(node, exp.Paren):
        return again(node.this, negated=negated)
    if isinstance(node, exp.Not):
        return again(node.this, negated=not negated)
    if isinstance(node, (exp.And, exp.Or)):
        # By De Morgan's laws a NOT moves to the comparisons.
        both = [again(side, negated=negated) for side in (node.left, node.right)]
        return {"must" if isinstance(node, exp.And) is not negated else "should": both}
    if isinstance(node, exp.Between):
        low = exp.GTE(this=node.this, expression=node.args["low"])
        high = exp.LTE(this=node.this, expression=node.args["high"])
        return again(exp.And(this=low, expression=high), negated=negated)
    if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
        missing = {"is_empty": {"key": payload_key(_column(node.this, columns))}}
        return {"must_not" if negated else "must": [missing]}
    if isinstance(node, exp.Column):  # a flag alone
        return again(exp.EQ(this=node, expression=exp.true()), negated=negated)
    column, condition, opposite = _comparison(node, columns)
    if negated is opposite:
        return {"must": [condition]}
    return {"must_not": [condition, {"is_empty": {"key": payload_key(column)}}]}


def _comparison(node: Any, columns: Mapping[str, str]) -> tuple[str, Filter, bool]:
    """Column, condition, and whether the node is true where the condition is not."""
    if isinstance(node, exp.In) and not node.args.get("query"):
        column = _column(node.this, columns)
        values = [_value(each) for each in node.expressions]
        return column, {"should": [_equal(column, columns[column], value) for value in values]}, False
    if not isinstance(node, _COMPARISONS):
        raise ValueError(f"{node.sql()} is not supported")
    left, right = node.left, node.right
    turned = not isinstance(left, exp.Column)
    if turned:
        left, right = right, left
    column, value = _column(left, columns), _value(right)
    if isinstance(node, (exp.EQ, exp.NEQ)):
        return column, _equal(column, columns[column], value), isinstance(node, exp.NEQ)
    if columns[column] != "number" or isinstance(value, (str, bool)):
        raise ValueError(f"{node.sql()} is not supported; only numbers have an order here")
    name = _RANGES[type(node)]
    return column, {"key": payload_key(column), "range": {_TURNED[name] if turned else name: value}}, False


def _equal(column: str, kind: str, value: str | float | bool) -> Filter:
    kinds: dict[str, Callable[[Any], bool]] = {
        "text": lambda value: isinstance(value, str),
        "number": lambda value: not isinstance(value, (str, bool)),
        "flag": lambda value: value in (0, 1),
    }
    if not kinds[kind](value):
        raise ValueError(f"the column {column} holds values of kind {kind}, got {value!r}")
    if kind == "text":
        return {"key": payload_key(column), "match": {"value": value}}
    # A range finds 1 and 1.0 alike; flags are stored as numbers.
    return {"key": payload_key(column), "range": {"gte": float(value), "lte": float(value)}}


def _column(node: Any, columns: Mapping[str, str]) -> str:
    if not isinstance(node, exp.Column):
        raise ValueError(f"{node.sql()} must be the name of a column")
    if node.name not in columns:
        raise ValueError(f"no such column: {node.name} (columns: {', '.join(columns)})")
    return node.name


def _value(node: Any) -> str | float | bool:
    if isinstance(node, exp.Boolean):
        return node.this
    if isinstance(node, exp.Neg) and not isinstance(value := _value(node.this), str):
        return -value
    if isinstance(node, exp.Literal):
        return node.this if node.is_string else float(node.this)
    raise ValueError(f"{node.sql()} must be a text, a number, TRUE or FALSE")
