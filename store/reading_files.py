"""Files from outside -> rows with their line numbers. What the columns mean is `row_shapes.py`'s business.

JSONL, JSON (an array, or one object a line), CSV / TSV, Parquet, TXT (one text a line); each also gzipped.
A line that cannot be read comes out as a `BadLine`, so that a report can name several at once.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from store.errors import ImportFileError

_BETWEEN_ITEMS = re.compile(r"[\s,]*")
_HALF_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class SourceRow:
    """One row: its line (counted from 1; in Parquet its row) and its columns, those without a value left out."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be used, and what was expected there."""

    line: int
    problem: str
    of_columns: bool = False  # the row has not the columns it should have


class _DamagedError(Exception):
    """The file as a whole is not what its name says."""


Rows = Iterator[SourceRow | BadLine]


def file_format(path: Path) -> str:
    """`jsonl`, `json`, `csv`, `tsv`, `parquet` or `txt`, by the file's name. Raises ImportFileError for any other."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    name = suffixes[-1].removeprefix(".") if suffixes else ""
    if name not in _READERS:
        known = ", ".join(f".{known}" for known in _READERS)
        raise ImportFileError(
            f"{path.name}: this kind of file is not known. Known are {known}, each also with .gz. Nothing was imported."
        )
    return name


def file_stem(path: Path) -> str:
    """The file's name without `.gz` and without its format."""
    return Path(path.stem if path.name.lower().endswith(".gz") else path.name).stem


def read_rows(path: Path) -> Rows:
    """The rows of a file, one after another. Raises ImportFileError where the file as a whole cannot be read."""
    reader = _READERS[file_format(path)]
    if not path.is_file():
        raise ImportFileError(f"{path}: there is no such file. Nothing was imported.")
    try:
        with _open(path) as stream:
            yield from reader(stream)
    except (OSError, EOFError, zlib.error, _DamagedError) as error:
        raise ImportFileError(f"{path.name} cannot be read ({error}). Nothing was imported.") from error


def _open(path: Path) -> IO[bytes]:
    packed = path.name.lower().endswith(".gz")
    return cast(IO[bytes], gzip.open(path, "rb") if packed else path.open("rb"))


def _row(line: int, values: dict[str, Any]) -> SourceRow:
    return SourceRow(line, {name: value for name, value in values.items() if value is not None})


def _text_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, str] | BadLine]:
    # Split at "\n" alone: U+2028 and its kind are letters of a text here, as they are in JSON.
    for line, raw in enumerate(lines, start=1):
        try:
            text = raw.removeprefix(codecs.BOM_UTF8 if line == 1 else b"").decode()
        except UnicodeDecodeError as error:
            yield _not_utf8(line, error)
            continue
        if text.strip():
            yield line, text


def _not_utf8(line: int, error: UnicodeDecodeError) -> BadLine:
    return BadLine(line, f"this is not UTF-8 text (byte {error.object[error.start]:#04x}). Save the file as UTF-8")


def _read_txt(stream: IO[bytes]) -> Rows:
    for item in _text_lines(stream):
        yield item if isinstance(item, BadLine) else SourceRow(item[0], {"text": item[1].strip()})


def _read_jsonl(stream: Iterable[bytes]) -> Rows:
    for item in _text_lines(stream):
        yield item if isinstance(item, BadLine) else _json_line(*item)


def _json_line(line: int, text: str) -> SourceRow | BadLine:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        return BadLine(line, f"expected one JSON object on this line ({_what_json_says(error)})")
    return _json_row(line, value, text)


def _what_json_says(error: json.JSONDecodeError | RecursionError) -> str:
    # Its own words name a line as well: the first, or the array's, where ours is the file's.
    return f"{error.msg}, at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _json_row(line: int, value: Any, text: str) -> SourceRow | BadLine:
    if not isinstance(value, dict):
        return BadLine(line, f"expected a JSON object, found {type(value).__name__}")
    if _HALF_SURROGATE.search(text):  # JSON can spell what is no text: half of a pair of UTF-16 units
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return BadLine(line, r"a text holds half of a character (a lone \ud800 to \udfff escape)")
    return _row(line, value)


def _read_json(stream: IO[bytes]) -> Rows:
    raw = stream.read().removeprefix(codecs.BOM_UTF8)
    if not raw.lstrip().startswith(b"["):  # many a .json file is JSONL by another name
        yield from _read_jsonl(raw.split(b"\n"))
        return
    try:
        yield from _json_items(raw.decode())
    except UnicodeDecodeError as error:
        yield _not_utf8(raw.count(b"\n", 0, error.start) + 1, error)


def _json_items(text: str) -> Rows:
    decoder = json.JSONDecoder()
    at, line, counted = text.index("[") + 1, 1, 0
    while True:
        at = _end_of_gap(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]" and not text[at + 1 :].strip():
            return
        try:
            value, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            yield BadLine(line, f"expected a JSON object, or the end of the array ({_what_json_says(error)})")
            return
        yield _json_row(line, value, text[at:end])
        at = end


def _end_of_gap(text: str, at: int) -> int:
    gap = _BETWEEN_ITEMS.match(text, at)
    assert gap is not None  # the pattern matches the empty string
    return gap.end()


def _read_csv(stream: IO[bytes], delimiters: str = ",;\t") -> Rows:
    csv.field_size_limit(2**31 - 1)  # the module's own limit, 128 KiB, is shorter than a long conversation
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        first = lines.readline()
    except UnicodeDecodeError as error:
        yield _not_utf8(1, error)
        return
    delimiter = max(delimiters, key=first.count)
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    yield from _csv_rows(reader)


def _csv_rows(reader: Any) -> Rows:
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield BadLine(line, f"expected CSV, each quote inside a quoted text doubled ({error})")
            return
        except UnicodeDecodeError as error:
            yield _not_utf8(line, error)
            return
        if cells is None:
            return
        if header is None:
            header = [name.strip() for name in cells]
        elif cells:
            yield _csv_row(line, header, cells)


def _csv_row(line: int, header: list[str], cells: list[str]) -> SourceRow | BadLine:
    if len(cells) != len(header):
        return BadLine(line, f"expected {len(header)} fields, as in the first line, found {len(cells)}")
    return _row(line, {name: _cell(cell) for name, cell in zip(header, cells, strict=True)})


def _cell(cell: str) -> Any:
    """A cell's value: chat messages where it holds their JSON, nothing where it is empty, else its text."""
    if cell.startswith("[{") and '"role"' in cell:
        try:
            return json.loads(cell)
        except json.JSONDecodeError:
            return cell
    return cell or None


def _read_tsv(stream: IO[bytes]) -> Rows:
    return _read_csv(stream, delimiters="\t")


def _read_parquet(stream: IO[bytes]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(io.BytesIO(stream.read())).iter_batches(batch_size=1000)
        line = 0
        for batch in batches:
            for values in batch.to_pylist():
                line += 1
                yield _row(line, values)
    except pa.ArrowException as error:
        raise _DamagedError(f"this is not a Parquet file, or a damaged one: {error}") from error


_READERS: dict[str, Callable[[IO[bytes]], Rows]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "parquet": _read_parquet,
    "txt": _read_txt,
}
