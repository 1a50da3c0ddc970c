"""How a run says how far it is, and hears that it should stop.

Metrics are lines of JSON in `runs/<id>/metrics.jsonl`, written through at once, so that any dashboard can follow them;
the run's row gets the latest figures twice a second at most. Importable without torch.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpo_core.alarms import Alarm
from dpo_core.errors import RunCancelled
from dpo_core.workspace import Workspace
from store.database import writing
from store.runs import report_progress

log = logging.getLogger("pairloop")
REPORT_SECONDS = 0.5
Listener = Callable[[dict[str, Any]], None]


class RunProgress:
    """What a run reports to. Once the run belongs to a later attempt, every report raises LostRunError."""

    def __init__(self, workspace: Workspace, run_id: int, attempt: int, listener: Listener | None = None) -> None:
        self.workspace = workspace
        self.run_id = run_id
        self.attempt = attempt
        self.folder = workspace.run_folder(run_id)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._metrics = self.folder / "metrics.jsonl"
        self._end_half_line()
        self._listener = listener
        self._phase = ""
        self._phase_started = (0.0, 0)
        self._reported = 0.0
        self._latest: dict[str, Any] = {}
        self.alarms: list[dict[str, Any]] = []  # so far, as the run's row and its result keep them

    def report(self, phase: str, step: int, total: int, metrics: dict[str, float] | None = None) -> None:
        """Say that `step` of `total` steps of a phase are done. Raises RunCancelled, LostRunError."""
        moment = time.monotonic()
        entered = phase != self._phase
        if entered:
            self._phase, self._phase_started = phase, (moment, step)
            log.info("%s: %d steps", phase, total)
        progress = {"phase": phase, "step": step, "total": total, "eta_seconds": self._eta(moment, step, total)}
        if self._listener is not None:
            self._listener(progress | (metrics or {}))
        if entered or step >= total or moment - self._reported >= REPORT_SECONDS:
            self._reported = moment
            self._latest = progress | {"metrics": metrics or {}}
            self._write()
        if metrics:  # after the row: an attempt that lost the run has stopped by now
            self._append({"phase": phase, "step": step, "total": total, "time": time.time()} | metrics)

    def sound(self, alarms: Sequence[Alarm]) -> None:
        """Put alarms into the log and the run's row, at once if it was reported to. Raises as `report`."""
        for alarm in alarms:
            log.log(logging.WARNING if alarm.level == "warning" else logging.INFO, "%s", alarm.whole_text)
        self.alarms += [asdict(alarm) | {"pairs": list(alarm.pairs)} for alarm in alarms]
        if alarms and self._latest:
            self._write()

    def _write(self) -> None:
        progress = self._latest | ({"alarms": self.alarms} if self.alarms else {})
        with writing(self.workspace.engine) as session:
            cancel = report_progress(session=session, run_id=self.run_id, attempt=self.attempt, progress=progress)
        if cancel:
            raise RunCancelled(f"Run {self.run_id} was cancelled.")

    def _eta(self, moment: float, step: int, total: int) -> float | None:
        since, first = self._phase_started
        done = step - first
        return None if done <= 0 else round((moment - since) / done * (total - step), 1)

    def _append(self, line: dict[str, Any]) -> None:
        with self._metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def _end_half_line(self) -> None:
        """An attempt that died while writing leaves half a line, which must not swallow the next one."""
        if self._metrics.exists() and not self._metrics.read_bytes().endswith(b"\n"):
            with self._metrics.open("a", encoding="utf-8") as stream:
                stream.write("\n")


class QuietProgress(RunProgress):
    """For the processes beside the leader's, which speaks for all: nothing is written, nobody is heard."""

    def __init__(self, workspace: Workspace, run_id: int, attempt: int) -> None:
        self.workspace = workspace
        self.run_id = run_id
        self.attempt = attempt
        self.folder = workspace.run_folder(run_id)
        self.alarms = []

    def report(self, phase: str, step: int, total: int, metrics: dict[str, float] | None = None) -> None:
        """Nothing: the leader reports, and is the one to hear that the run is cancelled or lost."""

    def sound(self, alarms: Sequence[Alarm]) -> None:
        """Nothing: the leader comes to the same alarms."""


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics, one for each (phase, step), in order; a resumed run's line replaces the earlier one."""
    path = folder / "metrics.jsonl"
    entries: dict[tuple[str, int], dict[str, Any]] = {}
    if not path.exists():
        return []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed while writing it
            continue
        entries[entry["phase"], entry["step"]] = entry
    return sorted(entries.values(), key=lambda entry: (entry["phase"], entry["step"]))


def note_in_log(workspace: Workspace, run_id: int, text: str) -> None:
    """Add a line to a run's log, which its process writes to as well."""
    path = workspace.run_folder(run_id) / "log.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(f"{text}\n")
    except OSError as error:  # a full disk: the database has the record
        log.warning("The run's log cannot be written: %s", error)
