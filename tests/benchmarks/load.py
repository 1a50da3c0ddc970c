"""Many annotators at once: simulated ones over real websockets, each giving a verdict every few seconds.

    PYTHONPATH=. python tests/benchmarks/load.py --annotators 200 --minutes 10
    PYTHONPATH=. python tests/benchmarks/load.py --training ../shared/data/hh-harmless-test.jsonl.gz

Each annotator is a websocket that speaks Streamlit's own protocol to one server: it presses the buttons that it was
sent, as a browser would. Printed: milliseconds from a press to the texts of the next pair, and to the whole page;
verdicts sent beside those that the database holds; the server's processor time and its memory for each session. What
it leaves out on purpose: the browser's own time (see key_to_pair.py). With `--training` one of pairloop's trainings
runs beside it, as a worker runs one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from sqlmodel import col, func, select
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

from dpo_core.workspace import open_workspace
from store.database import reading
from store.models import Comparison
from tests.benchmarks.key_to_pair import training
from tests.browser import seeding

BUTTONS = ("Left clearly", "Right clearly", "Left slightly", "Right much", "Tie")
ANSWER = re.compile(r"answer to (\d+)")
PATIENCE = 60  # seconds without the next pair before a session counts as lost


@dataclass
class Tally:
    """What all annotators together saw. Times in milliseconds."""

    sent: int = 0
    lost: int = 0
    texts: list[float] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)


@dataclass
class Annotator:
    """One browser tab, as the server knows it."""

    socket: ClientConnection
    name: str
    page: str = ""
    pair: str = ""
    buttons: dict[str, tuple[str, str]] = field(default_factory=dict)  # label: its id, and its fragment's
    cached: set[str] = field(default_factory=set)

    async def press(self, label: str = "") -> tuple[float, float]:
        """Press a button, or open the page; milliseconds to the next pair's texts and to the end of the script."""
        state = ClientState(query_string=f"as={self.name}", page_script_hash=self.page)
        state.cached_message_hashes.extend(self.cached)
        if label:
            button, state.fragment_id = self.buttons[label]
            state.widget_states.widgets.add(id=button, trigger_value=True)
        before, texts = self.pair, 0.0
        start = time.perf_counter()
        await self.socket.send(BackMsg(rerun_script=state).SerializeToString())
        while True:
            said = ForwardMsg.FromString(await asyncio.wait_for(self.socket.recv(decode=False), PATIENCE))
            if self._take(said) and self.pair != before and not texts:
                texts = 1000 * (time.perf_counter() - start)
            if said.WhichOneof("type") == "script_finished":
                return texts, 1000 * (time.perf_counter() - start)

    def _take(self, said: ForwardMsg) -> bool:
        """Remember what a page needs to; whether a pair's text came."""
        if said.metadata.cacheable and said.hash:
            self.cached.add(said.hash)
        kind = said.WhichOneof("type")
        if kind == "new_session":
            self.page = said.new_session.page_script_hash
        element = said.delta.new_element if kind == "delta" else None
        if element is None:
            return False
        if element.WhichOneof("type") == "button":
            self.buttons[element.button.label] = element.button.id, said.delta.fragment_id
        found = ANSWER.search(element.html.body) if element.WhichOneof("type") == "html" else None
        self.pair = found.group(1) if found else self.pair
        return found is not None


async def annotate(address: str, name: str, asked: argparse.Namespace, start: float, tally: Tally) -> None:
    """One annotator's day: a verdict every few seconds, no two of them in step."""
    lots = random.Random(name)
    await asyncio.sleep(lots.uniform(0, asked.every))
    url = f"ws://{address}/_stcore/stream"
    async with connect(url, subprotocols=["streamlit"], max_size=None, compression=None) as socket:  # type: ignore[list-item]
        one = Annotator(socket, name)
        await one.press()
        await asyncio.sleep(max(0.0, start - time.monotonic()) + lots.uniform(0, asked.every))
        while time.monotonic() < start + 60 * asked.minutes:
            tally.sent += 1
            texts, page = await one.press(lots.choice(BUTTONS))
            tally.texts.append(texts)
            tally.pages.append(page)
            # Nobody has read a pair in less than half a second: pairloop takes such a press for one meant before.
            await asyncio.sleep(max(0.5, lots.gauss(asked.every, asked.every / 5) - page / 1000))


async def everybody(address: str, asked: argparse.Namespace, server: psutil.Process) -> tuple[Tally, float, float]:
    """All annotators at once; what they saw, the server's processor time per second, megabytes for each session."""
    tally, before = Tally(), server.memory_info().rss
    start = time.monotonic() + 2 * asked.every + asked.annotators / 10
    work = [annotate(address, f"annotator-{n}", asked, start, tally) for n in range(asked.annotators)]
    everyone = asyncio.gather(*work, return_exceptions=True)
    await asyncio.sleep(start - time.monotonic())
    used, began = sum(server.cpu_times()[:2]), time.monotonic()
    ended = asyncio.create_task(_last_look(server, start + 60 * asked.minutes - 1))
    failures = [each for each in await everyone if each is not None]
    for failure in failures[:3]:
        print(f"lost: {failure!r}", file=sys.stderr)
    tally.lost = len(failures)
    memory, processor, moment = await ended
    return tally, (processor - used) / (moment - began), (memory - before) / 1e6 / asked.annotators


async def _last_look(server: psutil.Process, moment: float) -> tuple[int, float, float]:
    await asyncio.sleep(moment - time.monotonic())
    return server.memory_info().rss, sum(server.cpu_times()[:2]), time.monotonic()


@contextlib.contextmanager
def serving(folder: Path, pairs: int) -> Iterator[tuple[str, psutil.Process]]:
    """A server of a round with this many pairs; its address and process."""
    workspace = seeding.new_workspace(folder, target=pairs)
    seeding.open_round(workspace, seeding.plain_exchanges(pairs))
    command = [sys.executable, "-m", "ui.serve", "--workspace", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield urlsplit(server.stdout.readline().split()[-1]).netloc, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


def stored(folder: Path) -> int:
    """The verdicts that the database holds."""
    with reading(open_workspace(folder).engine) as session:
        return session.exec(select(func.count()).where(col(Comparison.superseded_at).is_(None))).one()


def quantiles(times: list[float]) -> str:
    """The times that half, 95% and 99% of all stay under."""
    found = sorted(times) or [float("nan")]
    return ", ".join(f"p{share} {found[len(found) * share // 100]:.0f}" for share in (50, 95, 99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=5, help="seconds from one verdict of an annotator to the next")
    parser.add_argument("--training", type=Path, help="preferences to train on meanwhile")
    asked = parser.parse_args()
    pairs = int(1.3 * asked.annotators * (60 * asked.minutes / asked.every + 4))
    beside = training(asked.training) if asked.training else contextlib.nullcontext()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "w", pairs) as (address, server), beside:
        tally, processor, memory = asyncio.run(everybody(address, asked, server))
        print(
            f"{asked.annotators} annotators, {asked.minutes:g} minutes, a verdict every {asked.every:g} s"
            f"{', beside a training' if asked.training else ''}:\n"
            f"verdicts sent {tally.sent}, stored {stored(Path(folder) / 'w')}, sessions lost {tally.lost}\n"
            f"ms to the next pair's texts: {quantiles(tally.texts)}; to the whole page: {quantiles(tally.pages)}\n"
            f"server: {processor:.2f} of a core, {memory:.2f} MB for each session"
        )


if __name__ == "__main__":
    main()
