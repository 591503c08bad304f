"""The feature SQL for Spark: DuckDB's dialect, translated by sqlglot when features are built.

There is one SQL file per table, for both engines. sqlglot translates names and syntax; the
functions here translate what it passes through and what the engines compute differently. Needs no
Spark.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlglot import ErrorLevel, exp, parse_one

Columns = Mapping[str, Iterable[str]]


class UntranslatedSql(ValueError):
    """A statement uses what the translation does not cover; the message names it."""


def to_spark(
    sql: str,
    macros: Iterable[str] = (),
    tables: Columns | None = None,
    until: datetime | None = None,
) -> str:
    """One DuckDB query as a query for Spark with the session's time zone UTC.

    Args:
        macros: ``CREATE MACRO`` statements, which are expanded, because Spark has none.
        tables: the columns of each table that a ``UNION ALL BY NAME`` reads.
        until: the value of ``$until``.

    Raises:
        UntranslatedSql: if the query needs something that is not translated.
    """
    query = parse_one(sql, read="duckdb")
    query = _expand_macros(query, [parse_one(macro, read="duckdb") for macro in macros])
    query = _fill_until(query, until)
    for union in list(query.find_all(exp.Union)):
        _align_union(union, query, tables or {})
    for join in query.find_all(exp.Join):
        _translate_asof(join)
    for rule in (_bound_sequence, _inline_structs, _count_boundaries, _fractional_epoch):
        query = query.transform(rule)
    return query.sql(dialect="spark", unsupported_level=ErrorLevel.RAISE, comments=False)


def _expand_macros(query: exp.Expr, macros: list[exp.Expr]) -> exp.Expr:
    bodies = {}
    for macro in macros:
        signature = macro.this
        bodies[signature.this.name.lower()] = (
            [parameter.name for parameter in signature.expressions],
            macro.expression,
        )

    def expand(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Anonymous) or node.name.lower() not in bodies:
            return node
        parameters, body = bodies[node.name.lower()]
        values = dict(zip(parameters, node.expressions, strict=True))

        def substitute(inner: exp.Expr) -> exp.Expr:
            if isinstance(inner, exp.Column) and not inner.table and inner.name in values:
                return exp.paren(values[inner.name].copy())
            return inner

        expanded = body.copy().transform(substitute)
        # Spark reads `FROM t WHERE (TRUE)` as a table with the alias WHERE and a column.
        return expanded if isinstance(expanded, exp.Boolean) else exp.paren(expanded)

    return query.transform(expand)


def _fill_until(query: exp.Expr, until: datetime | None) -> exp.Expr:
    def fill(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Placeholder | exp.Parameter):
            return node
        if node.name != "until" or until is None:
            raise UntranslatedSql(f"the only parameter is $until, with a value; found {node.sql()}")
        return exp.cast(exp.Literal.string(until.isoformat()), "timestamptz")

    return query.transform(fill)


def _align_union(union: exp.Union, query: exp.Expr, tables: Columns) -> None:
    """``UNION ALL BY NAME``: both sides list the columns of both; NULL where a side lacks one."""
    if not union.args.get("by_name"):
        return
    sides: list[exp.Query] = [union.this, union.expression]
    names = [_names(side, query, tables) for side in sides]
    either = list(dict.fromkeys([*names[0], *names[1]]))
    for key, side, own in zip(("this", "expression"), sides, names, strict=True):
        columns = [exp.column(name) if name in own else exp.alias_("NULL", name) for name in either]
        union.set(key, exp.select(*columns).from_(side.subquery("side")))
    union.set("by_name", None)


def _names(side: exp.Query, query: exp.Expr, tables: Columns) -> list[str]:
    if not side.is_star:
        return [select.alias_or_name for select in side.selects]
    source = side.find(exp.Table)
    name = source.name if source else ""
    for cte in query.find_all(exp.CTE):
        if cte.alias == name:
            return [select.alias_or_name for select in cte.this.selects]
    if name not in tables:
        raise UntranslatedSql(f"UNION ALL BY NAME needs the columns of {name!r}, which are unknown")
    return list(tables[name])


def _translate_asof(join: exp.Join) -> None:
    """``ASOF LEFT JOIN b ON a.k = b.k AND a.t >= b.t`` has a match condition apart in Spark."""
    if join.method != "ASOF":
        return
    on = join.args.get("on")
    conditions = list(on.flatten()) if isinstance(on, exp.And) else [on] if on else []
    order = [each for each in conditions if isinstance(each, exp.GTE)]
    equal = [each for each in conditions if isinstance(each, exp.EQ)]
    if len(order) != 1 or len(equal) + 1 != len(conditions):
        raise UntranslatedSql(
            "an ASOF join has equalities and one a.t >= b.t in its condition; found "
            f"{[each.sql() for each in conditions]}"
        )
    join.set("match_condition", order[0].copy())
    join.set("on", exp.and_(*[each.copy() for each in equal]) if equal else None)
    join.set("method", f"{join.side} ASOF".strip())  # Spark writes LEFT ASOF, DuckDB ASOF LEFT
    join.set("side", None)


def _bound_sequence(node: exp.Expr) -> exp.Expr:
    """A series that ends before it starts is empty in DuckDB, and an error or descends in Spark."""
    if not isinstance(node, exp.GenerateSeries):
        return node
    start, end = node.args["start"], node.args["end"]
    forwards = exp.LTE(this=start.copy(), expression=end.copy())
    return exp.If(this=forwards, true=node.copy(), false=exp.null())


def _inline_structs(node: exp.Expr) -> exp.Expr:
    """``unnest(structs, recursive := TRUE)`` makes columns of the structs' fields."""
    if not isinstance(node, exp.Explode) or not node.expressions:
        return node
    if not node.expressions[0].sql().lower().startswith("recursive"):
        raise UntranslatedSql(f"unnest has the option `recursive` or none; found {node.sql()}")
    return exp.func("inline", node.this.copy())


def _count_boundaries(node: exp.Expr) -> exp.Expr:
    """DuckDB's ``date_diff`` counts the boundaries between two moments, Spark's whole units."""
    if not isinstance(node, exp.DateDiff) or not node.args.get("date_part_boundary"):
        return node
    unit = node.args["unit"]
    later, earlier = (
        exp.TimestampTrunc(this=side.copy(), unit=unit.copy())
        for side in (node.this, node.expression)
    )
    return exp.DateDiff(this=later, expression=earlier, unit=unit.copy())


def _fractional_epoch(node: exp.Expr) -> exp.Expr:
    """DuckDB's ``epoch`` keeps the fraction of a second, Spark's ``unix_timestamp`` drops it."""
    if not isinstance(node, exp.TimeToUnix):
        return node
    return exp.Div(
        this=exp.func("unix_micros", node.this.copy()),
        expression=exp.Literal.number("1000000"),
        typed=False,
        safe=False,
    )
