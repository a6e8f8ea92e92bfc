"""A CSV table that says which structures are annotated in which case: a row a case, a column a structure."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from TransferSegLib.anatomy import readable_name
from TransferSegLib.errors import DatasetError
from TransferSegLib.structures import LabelSet, structure_key

_CASE_COLUMNS = ("case", "id", "case id", "caseid", "name")
_NO = ("", "no", "n", "false", "none", "nan", "-")


def read_annotated_table(source: Path, label_set: LabelSet) -> dict[str, tuple[str, ...]]:
    """Return the annotated structures by case id.

    The case ids stand in the column 'case' or 'id', else in the first one. A structure's column may carry any word
    the catalogue of anatomy knows for it; 0, nothing, 'no' and 'false' mean not annotated, anything else (such as a
    voxel count) annotated. Other columns are ignored. Comma, semicolon and tab separate. Raises DatasetError.
    """
    header, rows = read_rows(source, "'case' and one for each structure")
    case_column = next((column for column in header if structure_key(column) in _CASE_COLUMNS), header[0])
    columns = {structure.name: _column(structure.key, header) for structure in label_set}
    missing = [name for name, column in columns.items() if column is None]
    if missing:
        raise DatasetError(f"{source} has no column for {', '.join(missing)}. Its columns are: {', '.join(header)}.")
    annotated: dict[str, tuple[str, ...]] = {}
    for row in rows:
        id = (row.get(case_column) or "").strip()
        if not id:
            continue
        if id in annotated:
            raise DatasetError(f"{source} has two rows for the case {id}.")
        annotated[id] = tuple(name for name, column in columns.items() if column and _says_yes(row.get(column)))
    if not annotated:
        raise DatasetError(f"{source} lists no cases below its header.")
    return annotated


def read_rows(source: Path, columns: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the column names and the rows of a CSV file; raises DatasetError when it is none.

    ``columns`` says for its message which columns the table should have.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{source} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{source} is not a text file in UTF-8. Save the table as 'CSV UTF-8'.") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = [column for column in reader.fieldnames or [] if column]
        rows = list(reader)
    except csv.Error as error:
        raise DatasetError(f"{source} is not a table in CSV form: {error}.") from error
    if len(header) < 2:
        raise DatasetError(f"{source} needs a first line with the columns: {columns}.")
    return header, rows


def _column(key: str, header: list[str]) -> str | None:
    """Return the column for a structure: its name first, then another word for it."""
    for column in header:
        if structure_key(column) == key:
            return column
    return next((column for column in header if structure_key(readable_name(column)) == key), None)


def _says_yes(cell: str | None) -> bool:
    """Tell whether a cell says that a structure is annotated."""
    text = (cell or "").strip().lower()
    try:
        return float(text.replace(",", ".")) > 0
    except ValueError:
        return text not in _NO
