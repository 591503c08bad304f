"""Markdown tables of reports."""

from collections.abc import Iterable, Mapping
from typing import Any

DIFFERENCE = "{difference:+.4f} [{low:+.4f}, {high:+.4f}]"
Report = dict[str, Any]


def table(rows: Iterable[Report], columns: Mapping[str, str]) -> str:
    """A Markdown table. columns: heading -> format of a row. A cell that needs a null is empty."""

    def cell(form: str, row: Report) -> str:
        try:
            return form.format_map(row)
        except TypeError:
            return ""

    lines = [list(columns), ["---"] * len(columns)]
    lines += [[cell(form, row) for form in columns.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts(head: str, report: Report, forms: Mapping[str, str]) -> str:
    """A Markdown table of two columns: what, and a format of the report."""
    rows = [{"what": what, "value": form.format_map(report)} for what, form in forms.items()]
    return table(rows, {head: "{what}", "": "{value}"})
