"""Files in and out of the browser: what is uploaded is imported, what is exported can be downloaded as one zip."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

from dpo_core.workspace import Workspace
from store.database import reading
from store.exporting import export_snapshot
from store.importing import ImportReport, import_file
from store.quality import Quality
from store.quality_tables import write_tables
from store.snapshots import get_snapshot

ENDINGS = ["jsonl", "json", "csv", "tsv", "txt", "parquet", "gz"]


def import_upload(workspace: Workspace, *, name: str, content: bytes) -> ImportReport:
    """Import an uploaded file, prompts, preferences or rankings as its columns say. Raises ImportFileError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(content)
        return import_file(engine=workspace.engine, path=path, held_out_share=workspace.settings.round.held_out_share)


def export_to_workspace(workspace: Workspace, *, snapshot: str, style: str, file_format: str) -> Path:
    """Write a snapshot into the workspace's `exports/`, unless it is there already. Raises SnapshotError."""
    target = workspace.folder / "exports" / f"{snapshot[:12]}-{style}-{file_format}"
    if not target.exists():
        with reading(workspace.engine) as session:
            export_snapshot(
                session=session,
                snapshot=get_snapshot(session=session, name=snapshot),
                folder=workspace.folder,
                target=target,
                style=style,
                file_format=file_format,
            )
    return target


def zipped_tables(quality: Quality) -> bytes:
    """The tables of quality as CSV files in a zip."""
    with tempfile.TemporaryDirectory() as folder:
        write_tables(quality, Path(folder) / "quality")
        return zipped(Path(folder) / "quality")


def zipped(folder: Path) -> bytes:
    """A folder as a zip file that unpacks into a folder of the same name."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, Path(folder.name) / path.relative_to(folder))
    return packed.getvalue()
