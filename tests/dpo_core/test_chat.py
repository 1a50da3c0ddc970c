"""The Playground's chats: the texts that a run would write, shown as they grow, whatever else the worker does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from dpo_core import chat, chat_child, sampling, worker
from dpo_core.config import SamplingSettings
from dpo_core.loop import start_round
from dpo_core.playground import ask, first_choice, go_on, make_pair
from dpo_core.policies import load_policy
from dpo_core.sampling import sample_completions
from dpo_core.workspace import Workspace
from store.annotators import get_or_add_annotator
from store.chat_tables import Exchange, ExchangeStatus
from store.checkpoints import add_checkpoint, base_checkpoint, get_checkpoint
from store.database import reading, writing
from store.exchanges import ReadExchange, read_exchange
from store.models import Completion, Pair, Round, RoundStatus, RunKind, RunStatus
from store.runs import get_run, queue_run
from store.workers import beat, own_name
from store.writing_exchanges import report_texts, stop_exchange
from tests.dpo_core.conftest import build_model, build_tokenizer
from tests.dpo_core.watching import processes, until

FAKE = Path(__file__).with_name("fake_runs.py")
ASKED = [{"role": "user", "content": "What is new?"}]
NOBODY = threading.Event()


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """One: in models this small, threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model as tiny as the base, its weights drawn otherwise."""
    folder, tokenizer = tmp_path_factory.mktemp("other"), build_tokenizer()
    build_model(tokenizer, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def workspace(make_workspace: Callable[..., Workspace], other_model: Path) -> Workspace:
    """Two checkpoints, `base` and `round-1`, with different weights."""
    made = make_workspace(prompts=4, worker={"threads": 1, "niceness": 0}, round={"comparisons": 2})
    shutil.copytree(other_model, made.folder / "checkpoints" / "round-1")
    with writing(made.engine) as session:
        parent = base_checkpoint(session=session)
        add_checkpoint(session=session, name="round-1", path="checkpoints/round-1", parent_id=parent.id)
        get_or_add_annotator(session=session, name="Lea")
    return made


def _checkpoint(workspace: Workspace, name: str) -> Any:
    with reading(workspace.engine) as session:
        return get_checkpoint(session=session, name=name)


def say(workspace: Workspace, *names: str, messages: Any = ASKED, **changes: Any) -> int:
    """Ask two checkpoints; the exchange's number."""
    both = names or ("round-1", "base")
    asked = ask(workspace, by=1, messages=messages, checkpoints=both, seed=5, changes={"max_new_tokens": 12} | changes)  # type: ignore[arg-type]
    assert asked.id is not None
    return asked.id


def read(workspace: Workspace, number: int) -> ReadExchange:
    with reading(workspace.engine) as session:
        return read_exchange(session=session, exchange_id=number)


def write_all(workspace: Workspace) -> int:
    return chat.chat(workspace, stop=threading.Event(), idle_seconds=0.01)


def as_a_run_would(workspace: Workspace, name: str, number: int, per_prompt: int) -> list[str]:
    exchange = read(workspace, number).exchange
    settings = SamplingSettings.model_validate(exchange.settings)
    model, tokenizer = load_policy(workspace, _checkpoint(workspace, name))
    found = sample_completions(model, tokenizer, [exchange.messages], settings, per_prompt=per_prompt, seed=5)[0]
    return [each.text for each in found]


# What is written


def test_the_texts_are_those_that_a_run_would_write_with_that_seed(workspace: Workspace) -> None:
    first, again, twice = say(workspace), say(workspace), say(workspace, "base", "base")
    written = 0
    while written < 3:
        written += write_all(workspace)
    told, same, draws = (read(workspace, number) for number in (first, again, twice))
    assert told.exchange.status == ExchangeStatus.DONE and told.texts["a"] != told.texts["b"]
    assert same.texts == told.texts
    expected = [as_a_run_would(workspace, name, first, per_prompt=1) for name in ("round-1", "base")]
    assert [[text] for text in told.texts.values()] == expected
    assert list(draws.texts.values()) == as_a_run_would(workspace, "base", twice, per_prompt=2)
    assert told.exchange.made["a"]["settings"] == {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 12}


def watching(monkeypatch: pytest.MonkeyPatch, look: Callable[[Any, int, dict[str, str]], bool]) -> None:
    """Have `look(session, exchange_id, texts)` called as texts are shown; whoever writes waits for that at each step.

    Until a look has seen enough, which it returns: so it does not matter how quick this machine is.
    """
    turn, looks, seen_enough = threading.Condition(), 0, False

    def show(*, session: Any, exchange_id: int, owner: str, texts: dict[str, str]) -> bool:
        nonlocal looks, seen_enough
        with turn:
            looks, seen_enough = looks + 1, look(session, exchange_id, texts)
            turn.notify_all()
        return report_texts(session=session, exchange_id=exchange_id, owner=owner, texts=texts)

    def write_in_turn(*given: Any, on_step: Callable[[Any], None], **more: Any) -> Any:
        def step(rows: Any) -> None:
            on_step(rows)
            with turn:
                before = looks
                turn.wait_for(lambda: looks > before or seen_enough)

        return sample_completions(*given, on_step=step, **more)

    monkeypatch.setattr(chat, "SHOW_SECONDS", 0.002)
    monkeypatch.setattr(chat, "report_texts", show)
    monkeypatch.setattr(sampling, "sample_completions", write_in_turn)


def test_what_is_shown_meanwhile_is_how_it_begins(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []
    watching(monkeypatch, lambda session, number, texts: bool(shown.append(texts)))  # type: ignore[func-returns-value]
    number = say(workspace, max_new_tokens=20)
    write_all(workspace)
    whole = read(workspace, number).texts
    for side in ("a", "b"):
        lengths = [len(texts[side]) for texts in shown]
        assert lengths == sorted(lengths) and len(set(lengths)) > 3, "it grows"
        assert all(whole[side].startswith(texts[side]) for texts in shown)


def test_stop_keeps_what_is_written_so_far(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(session: Any, number: int, texts: dict[str, str]) -> bool:
        if all(texts.values()):
            stop_exchange(session=session, exchange_id=number)
        return all(texts.values())

    watching(monkeypatch, press)
    number = say(workspace, "base", "base", max_new_tokens=30)  # both by one thread: none is far ahead of the other
    write_all(workspace)
    told = read(workspace, number)
    assert told.exchange.status == ExchangeStatus.STOPPED and all(told.texts.values())
    assert "stopped" in told.why_no_pair
    whole = as_a_run_would(workspace, "base", number, 2)
    assert all(len(text) > len(told.texts[side]) for side, text in zip("ab", whole, strict=True))


def test_a_process_that_is_told_to_end_leaves_it_to_the_next(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()

    def end(session: Any, number: int, texts: dict[str, str]) -> bool:
        if any(texts.values()):
            stop.set()
        return stop.is_set()

    watching(monkeypatch, end)
    number = say(workspace, max_new_tokens=30)
    chat.chat(workspace, stop=stop, idle_seconds=60)
    assert read(workspace, number).exchange.status == ExchangeStatus.WAITING
    write_all(workspace)
    assert read(workspace, number).texts["b"] == as_a_run_would(workspace, "base", number, 1)[0]


def test_what_goes_wrong_is_said_and_the_next_is_written(workspace: Workspace) -> None:
    too_long = say(workspace, "base", "base", messages=[{"role": "user", "content": "word " * 80}])
    gone = say(workspace)
    shutil.move(workspace.folder / "checkpoints" / "round-1", workspace.folder / "elsewhere")
    fine = say(workspace, "base", "base")
    while write_all(workspace):
        pass
    assert "begin a new conversation" in (read(workspace, too_long).exchange.error or "")
    lost = read(workspace, gone).exchange
    assert lost.status == ExchangeStatus.FAILED and "weights of round-1 are not there" in (lost.error or "")
    assert read(workspace, fine).exchange.status == ExchangeStatus.DONE


# Whose process writes it


@pytest.fixture
def at_work(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A worker that stays, whose runs are fake and whose chats are not; it ends with the test, and all it started."""
    real, stop = worker.child_command, threading.Event()
    monkeypatch.setattr(worker, "child_command", lambda *given: [sys.executable, str(FAKE), "child", *real(*given)[3:]])
    thread = threading.Thread(target=worker.work, args=(workspace,), kwargs={"stop": stop})
    thread.start()
    yield stop
    stop.set()
    thread.join()
    until(lambda: not processes(workspace), seconds=10)


def test_a_chat_does_not_wait_for_a_run(workspace: Workspace, at_work: threading.Event) -> None:
    with writing(workspace.engine) as session:
        settings = {"steps": 5000, "seconds": 0.1}
        run = queue_run(session=session, kind=RunKind.SAMPLE, settings=settings, requested_by="test").id
    assert run is not None

    def is_running() -> bool:
        with reading(workspace.engine) as session:
            return get_run(session=session, run_id=run).status == RunStatus.RUNNING

    until(is_running)
    number = say(workspace)
    until(lambda: not read(workspace, number).is_open, seconds=100)
    assert is_running()
    assert [read(workspace, number).texts["b"]] == as_a_run_would(workspace, "base", number, 1)


def test_a_process_without_anything_to_write_ends_before_it_loads_a_model(workspace: Workspace) -> None:
    program = f"""if True:
        import sys, threading
        from pathlib import Path
        from dpo_core.chat import chat
        from dpo_core.workspace import open_workspace
        print(chat(open_workspace(Path({str(workspace.folder)!r})), stop=threading.Event(), idle_seconds=60))
        print("torch" in sys.modules)
    """
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["0", "False"]


@pytest.mark.parametrize(
    ("kind", "cards", "expected"),
    [
        (RunKind.TRAIN, [1], ["look", "end", "run 1 (train), no chats meanwhile", "end"]),
        (RunKind.TRAIN, [], ["look", "make_room", "run 1 (train)", "look", "end"]),
        (RunKind.SAMPLE, [1], ["look", "make_room", "run 1 (sample)", "look", "end"]),
    ],
)
def test_a_training_on_a_card_has_it_to_itself(
    kind: RunKind, cards: list[int], expected: list[str], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    stop = threading.Event()

    def hear(*, session: Any, name: str, doing: str) -> None:
        if doing:
            done.append(doing)
            stop.set()

    for what in ("look", "end", "make_room"):
        monkeypatch.setattr(chat_child.ChatChild, what, lambda self, what=what: done.append(what))
    monkeypatch.setattr(worker, "beat", hear)
    monkeypatch.setattr(worker, "free_on_cards", lambda: cards)
    monkeypatch.setattr(worker, "child_command", lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"])
    with writing(workspace.engine) as session:
        queue_run(session=session, kind=kind, settings={}, requested_by="test")
    worker.work(workspace, stop=stop)
    assert done == expected


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux tells what would come free")
def test_what_an_idle_chat_holds_counts_as_free_for_a_training(workspace: Workspace) -> None:
    def held() -> int:
        with reading(workspace.engine) as session:
            return chat_child.idle_memory(session=session)

    program = "import sys; held = b'x' * 50_000_000; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, chat_child.MODULE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert held() == 0, "no worker has it"
        with writing(workspace.engine) as session:
            beat(session=session, name=own_name(), doing="")
        assert 50_000_000 < held() < 100_000_000
        number = say(workspace)
        assert held() == 0, "it is asked something"
        with writing(workspace.engine) as session:
            stop_exchange(session=session, exchange_id=number)
        process.communicate()
    assert held() == 0, "it has ended"


# Pairs of them


def test_a_pair_waits_for_the_next_round_and_is_asked_first(workspace: Workspace) -> None:
    number = say(workspace)
    write_all(workspace)
    kept = make_pair(workspace, number)
    assert kept.exchange.prompt_id is not None and kept.exchange.pair_id is None
    opened = start_round(workspace, by="test")
    told = read(workspace, number)
    with reading(workspace.engine) as session:
        pair = session.get_one(Pair, told.exchange.pair_id)
        first = session.get_one(Completion, pair.completion_a_id)
    assert (pair.round_id, pair.purpose, pair.wanted, first.text) == (opened.id, "train", 1, told.texts["a"])
    assert pair.position < 0, "the sampled pairs begin at 0"
    follow_up = say(workspace, messages=go_on(told, "b", "And why?"))
    assert read(workspace, follow_up).exchange.messages[1] == {"role": "assistant", "content": told.texts["b"]}
    write_all(workspace)
    asked = make_pair(workspace, follow_up)
    with reading(workspace.engine) as session:
        assert session.get_one(Pair, asked.exchange.pair_id).position < pair.position, "an open round asks it at once"


@pytest.mark.parametrize("status", [RoundStatus.TRAINING, RoundStatus.DECIDING])
def test_a_round_that_is_trained_already_is_asked_no_more(workspace: Workspace, status: RoundStatus) -> None:
    opened = start_round(workspace, by="test")
    with writing(workspace.engine) as session:
        current = session.get_one(Round, opened.id)
        current.status = status
        session.add(current)
        done = Exchange(
            asked_by_id=1,
            messages=ASKED,
            checkpoint_a_id=1,
            checkpoint_b_id=2,
            seed=0,
            status=ExchangeStatus.DONE,
            text_a="x",
            text_b="y",
            made={"a": {}, "b": {}},
        )
        session.add(done)
        session.flush()
        number = done.id or 0
    assert make_pair(workspace, number).exchange.pair_id is None


def test_the_two_to_begin_with(workspace: Workspace) -> None:
    assert first_choice(workspace) == (["round-1", "base"], ("round-1", "base"))
