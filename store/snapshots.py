"""Snapshots: immutable, content-hashed preference datasets cut from the comparisons.

On disk: `snapshots/<first 12 of the hash>/` with `train.jsonl`, `test.jsonl` (held-out prompts) and `manifest.json`;
where the filter keeps ties, those to train on are in `ties.jsonl`; where it asks for confidence or votes, rows have
these columns.
The manifest holds the hashes of these files, the filter and what was dropped; its own hash names the snapshot.
The same comparisons and the same filter give the same bytes on any machine, in any order, with any ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.database import chunks
from store.errors import SnapshotError, UnknownRecordError
from store.hashing import canonical_json, content_hash, file_hash, text_hash
from store.models import TRAINED_ON, Completion, Pair, Prompt, Snapshot
from store.preferences import Poll, Preference, poll_comparisons
from store.prompts import Message
from store.roles import require_researcher
from store.snapshot_filter import SnapshotFilter
from store.wording import counted, numbered
from store.writing_files import folder_written_aside

SPLITS = ("train", "test")
TIES = "ties"
# Columns and reasons only where they say something: older snapshots keep their hash.
LATER = (
    "adjudicated",
    "confidence",
    "votes_for",
    "votes_against",
    "ranking",
    "ranked_together",
    "selected_by",
    "reward_margin",
    "hand_picked",
)
MANIFEST = "manifest.json"
FORMAT = 1  # of the files; raised when what is in them changes


@dataclass(frozen=True)
class PreferencePair:
    """A snapshot's row as training and evaluation use it, with the pair it came from."""

    pair_id: int
    messages: list[Message]
    chosen: str
    rejected: str
    chosen_side: str  # which completion of the pair was chosen, "a" or "b"
    agreement: float  # the share of votes that went to `chosen`, or that said tie
    annotators: int
    votes_for: int | None = None  # how many named `chosen`; None where the snapshot does not say
    votes_against: int | None = None  # how many named `rejected`
    adjudicated: bool = False  # decided by a researcher, whatever the votes
    confidence: float | None = None  # the chance that the label is right; None where the snapshot does not say


def cut_snapshot(*, session: Session, folder: Path, filter: SnapshotFilter | None = None) -> Snapshot:
    """Cut a snapshot from the comparisons that stand now and write it under the workspace `folder`.

    The same content again is the same snapshot: its row is returned, and its files are written if they are missing.
    Raises SnapshotError where there is too little to train on, where the disk refuses, or where files of this
    snapshot are there but changed; UnknownRecordError for a round or an annotator that the filter made up;
    NotAllowedError.
    """
    require_researcher(session=session, to="cut a snapshot")
    filter = filter or SnapshotFilter()
    poll = poll_comparisons(session=session, filter=filter)
    missing = _missing(poll, filter)
    if missing:
        raise SnapshotError(missing)
    splits = {split: _lines(poll.preferences, held_out=split == "test") for split in SPLITS}
    if filter.keep_ties:
        splits[TIES] = _lines(poll.ties, held_out=False)
    manifest = _manifest(poll, filter, splits)
    hashed = content_hash(manifest)
    path = Path("snapshots") / hashed[:12]
    _write(folder / path, manifest, splits)
    known = session.exec(select(Snapshot).where(Snapshot.hash == hashed)).first()
    snapshot = known or Snapshot(hash=hashed, path=path.as_posix(), manifest=manifest)
    session.add(snapshot)
    session.flush()
    return snapshot


def _lines(preferences: Iterable[Preference], *, held_out: bool) -> list[str]:
    rows = (vars(preference) for preference in preferences if preference.held_out == held_out)
    lines = [canonical_json({name: row[name] for name in row if _is_column(name, row[name])}) for row in rows]
    return sorted(lines, key=text_hash)


def _is_column(name: str, value: Any) -> bool:
    """Which of a preference's fields are in its row: those of later versions only where they say something."""
    return name not in ("held_out", "tie") and not (name in LATER and (value is None or value is False))


def what_is_missing(*, session: Session, filter: SnapshotFilter) -> str:
    """Why no snapshot can be cut with this filter yet, in words; empty where one can."""
    return _missing(poll_comparisons(session=session, filter=filter), filter)


def _missing(poll: Poll, filter: SnapshotFilter) -> str:
    held_out = sum(preference.held_out for preference in poll.preferences)
    trained = len(poll.preferences) - held_out
    dropped = f" Left out: {poll.described_drops()}." if poll.described_drops() else ""
    are = "is on a held-out prompt" if held_out == 1 else "are on held-out prompts"
    aside = f" {held_out} of them {are}, never trained on." if held_out else ""
    aside += f" {counted(len(poll.ties), 'tie')} cannot be trained on alone." if poll.ties else ""
    if not poll.comparisons:
        return "There are no comparisons to cut a snapshot from yet. Compare some pairs first."
    made = counted(poll.comparisons, "comparison")
    if not trained:
        return f"{made}, but no preference to train on.{dropped}{aside} Compare more pairs first."
    if trained < filter.min_pairs:
        return (
            f"{made}, and only {counted(trained, 'preference')} to train on; "
            f"{filter.min_pairs} are needed, {filter.min_pairs - trained} more.{dropped}{aside}"
        )
    return ""


def _manifest(poll: Poll, filter: SnapshotFilter, splits: dict[str, list[str]]) -> dict[str, Any]:
    """What is in the snapshot. No time and no id: it must come out the same wherever it is cut."""
    manifest = {
        "format": FORMAT,
        "filter": filter.described(),
        "comparisons": poll.comparisons,
        "used": poll.comparisons - sum(poll.dropped.values()),
        "dropped": {reason: count for reason, count in poll.dropped.items() if count or reason not in LATER},
        "pairs": {split: len(lines) for split, lines in splits.items()},
        "files": {f"{split}.jsonl": text_hash(_joined(lines)) for split, lines in splits.items()},
    }
    return manifest if poll.reliability is None else manifest | {"confidence": poll.reliability.described()}


def _joined(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _write(target: Path, manifest: dict[str, Any], splits: dict[str, list[str]]) -> None:
    if target.exists():
        _check_files(target, manifest)
        return
    with folder_written_aside(target) as aside:
        for split, lines in splits.items():
            (aside / f"{split}.jsonl").write_bytes(_joined(lines).encode())
        (aside / MANIFEST).write_bytes((canonical_json(manifest) + "\n").encode())


def _check_files(target: Path, manifest: dict[str, Any]) -> None:
    for name, hashed in manifest["files"].items():
        path = target / name
        if not path.is_file():
            raise SnapshotError(f"{path} is missing. Remove {target} and cut the snapshot again.")
        if file_hash(path) != hashed:
            raise SnapshotError(f"{path} was changed after it was cut. Remove {target} and cut the snapshot again.")


def trained_words(manifest: dict[str, Any]) -> str:
    """What a manifest's snapshot has to train on: "26 pairs", or "26 pairs and 3 ties"."""
    pairs, ties = manifest["pairs"]["train"], manifest["pairs"].get(TIES, 0)
    return counted(pairs, "pair") + (f" and {counted(ties, 'tie')}" if ties else "")


def rounds_of(manifest: dict[str, Any]) -> list[int]:
    """The rounds that a manifest's snapshot was cut from; none where it was cut from all, or from imports alone."""
    return list(manifest["filter"]["round_numbers"] or ())


def cut_words(manifest: dict[str, Any]) -> str:
    """What a manifest's snapshot holds: "26 pairs to train on and 4 held out, of rounds 1 and 2"."""
    told = f"{trained_words(manifest)} to train on and {manifest['pairs']['test']:,} held out"
    if manifest["filter"]["round_numbers"] is None:
        return told
    rounds = [numbered("round", rounds_of(manifest))] if rounds_of(manifest) else []
    return f"{told}, of {' and '.join([*rounds, *['imports'] * manifest['filter']['include_imported']])}"


def list_snapshots(*, session: Session) -> list[Snapshot]:
    """All snapshots, newest first."""
    return list(session.exec(select(Snapshot).order_by(col(Snapshot.id).desc())))


def get_snapshot(*, session: Session, name: str) -> Snapshot:
    """The snapshot whose hash begins with `name`, or the `latest`. Raises UnknownRecordError for none or several."""
    snapshots = list_snapshots(session=session)
    found = snapshots[:1] if name == "latest" else [each for each in snapshots if name and each.hash.startswith(name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(each.hash[:12] for each in (found or snapshots)) or "none yet"
    what = "is more than one" if found else "is no"
    raise UnknownRecordError(f"There {what} snapshot {name!r}. There are: {known}.")


def verify_snapshot(*, snapshot: Snapshot, folder: Path) -> None:
    """Check that the files under the workspace `folder` are those that were cut. Raises SnapshotError if not."""
    target = folder / snapshot.path
    if content_hash(snapshot.manifest) != snapshot.hash:
        raise SnapshotError(f"The record of snapshot {snapshot.hash[:12]} was changed. Restore the database's backup.")
    _check_files(target, snapshot.manifest)
    manifest = target / MANIFEST
    written = canonical_json(snapshot.manifest) + "\n"
    if not manifest.is_file() or manifest.read_bytes() != written.encode():
        raise SnapshotError(f"{manifest} is not what was cut. Remove {target} and cut the snapshot again.")


def read_snapshot(*, snapshot: Snapshot, folder: Path, split: str) -> list[dict[str, Any]]:
    """The rows of one split, checked against the manifest: `train`, `test`, or `ties`, where these were kept.

    Raises SnapshotError.
    """
    _check_files(folder / snapshot.path, snapshot.manifest)
    if split == TIES and f"{TIES}.jsonl" not in snapshot.manifest["files"]:
        return []
    raw = (folder / snapshot.path / f"{split}.jsonl").read_bytes()
    return [json.loads(line) for line in raw.split(b"\n") if line]


def rows_to_train_on(*, snapshot: Snapshot, folder: Path) -> list[dict[str, Any]]:
    """Preferences, then ties if the snapshot keeps them. Raises SnapshotError."""
    return [row for split in ("train", TIES) for row in read_snapshot(snapshot=snapshot, folder=folder, split=split)]


def snapshot_pairs(*, session: Session, snapshot: Snapshot, folder: Path, split: str) -> list[PreferencePair]:
    """One split of a snapshot, each row with its pair in this database (of several with the same texts, the first).

    In the snapshot's order. Raises SnapshotError where files were changed or a pair is not in this database.
    """
    rows = read_snapshot(snapshot=snapshot, folder=folder, split=split)
    sides = _pair_sides(session, sorted({row["prompt_hash"] for row in rows}))
    return [_with_pair(row, sides, snapshot) for row in rows]


Sides = dict[tuple[str, str, str], tuple[int, str]]  # (prompt, chosen, rejected hashes) -> (pair id, chosen side)


def _pair_sides(session: Session, prompt_hashes: list[str]) -> Sides:
    a, b = Completion.__table__.alias(), Completion.__table__.alias()  # type: ignore[attr-defined]
    query = (
        sa.select(col(Prompt.content_hash), a.c.text_hash, b.c.text_hash, col(Pair.id))
        .join(Pair, col(Pair.prompt_id) == col(Prompt.id))
        .join(a, a.c.id == col(Pair.completion_a_id))
        .join(b, b.c.id == col(Pair.completion_b_id))
        .where(col(Pair.purpose).in_(TRAINED_ON))
        .order_by(col(Pair.id))
    )
    sides: Sides = {}
    for chunk in chunks(prompt_hashes):
        for prompt, hash_a, hash_b, pair_id in session.execute(query.where(col(Prompt.content_hash).in_(chunk))):
            sides.setdefault((prompt, hash_a, hash_b), (pair_id, "a"))
            sides.setdefault((prompt, hash_b, hash_a), (pair_id, "b"))
    return sides


def _with_pair(row: dict[str, Any], sides: Sides, snapshot: Snapshot) -> PreferencePair:
    key = row["prompt_hash"], text_hash(row["chosen"]), text_hash(row["rejected"])
    if key not in sides:
        raise SnapshotError(f"Snapshot {snapshot.hash[:12]} was cut from another database: a pair of it is not here.")
    pair_id, side = sides[key]
    return PreferencePair(
        pair_id,
        row["prompt"],
        row["chosen"],
        row["rejected"],
        side,
        row["agreement"],
        row["annotators"],
        row.get("votes_for"),
        row.get("votes_against"),
        row.get("adjudicated", False),
        row.get("confidence"),
    )
