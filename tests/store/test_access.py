"""Who may come in and do what: invites, passcodes, logins, roles; and that no secret lies in the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dpo_core.deciding import pick_candidate
from dpo_core.guidelines import current_guidelines
from store import annotators, decisions, exchanges, invites, playground_pairs, rounds, runs, writing_exchanges
from store.access_tables import Login
from store.adjudication import take_back_decision
from store.annotators import get_annotator, get_or_add_annotator, list_annotators
from store.comparisons import Choice, record_comparison, undo_comparison
from store.database import reading, writing
from store.errors import LoginError, NotAllowedError, StateError, StoreError, ThrottledError
from store.exporting import export_snapshot
from store.guidelines import put_in_force
from store.importing import import_file
from store.invites import accept_invite, add_invite, admit_email, find_email, find_invite, open_invites, revoke_invite
from store.lineage import trace_comparison
from store.logins import begin_login, end_login, find_login, is_stale, last_seen, see_login
from store.models import Checkpoint, Decision, Role, RoundStatus, RunKind, Snapshot
from store.passcodes import FIRST_LOCK, FREE_TRIES, LONGEST_LOCK, check_passcode
from store.rewrites import replace_rewrites
from store.roles import on_behalf_of, person_of
from store.searching import Search, count_found, find_comparisons, read_pace, write_csv
from store.snapshots import cut_snapshot
from tests.browser import seeding
from tests.conftest import MakeRound

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
PASSCODE = "three small words"


def invited(engine: sa.Engine, **given: Any) -> str:
    with writing(engine) as session:
        return add_invite(session=session, **given)[0]


def join(engine: sa.Engine, name: str = "Lea", passcode: str = PASSCODE, **given: Any) -> int:
    return accept_invite(engine=engine, token=invited(engine, **given), name=name, passcode=passcode)


def log_in(engine: sa.Engine, annotator_id: int, at: datetime = NOON) -> str:
    with writing(engine) as session:
        return begin_login(session=session, annotator_id=annotator_id, lasts=timedelta(days=30), at=at)


def whose(engine: sa.Engine, token: str, at: datetime = NOON) -> str | None:
    with reading(engine) as session:
        found = find_login(session=session, token=token, at=at)
    return None if found is None else found[1].name


def test_an_invite_lets_one_person_in_once(engine: sa.Engine) -> None:
    token = invited(engine, role=Role.RESEARCHER)
    number = accept_invite(engine=engine, token=token, name="  Lea   Moreau ", passcode=PASSCODE)
    with reading(engine) as session:
        lea = get_annotator(session=session, name="Lea Moreau")
        assert (lea.id, lea.role, open_invites(session=session)) == (number, "researcher", [])
    with pytest.raises(LoginError, match="used already"):
        accept_invite(engine=engine, token=token, name="Max", passcode=PASSCODE)
    assert check_passcode(engine=engine, name="Lea Moreau", passcode=PASSCODE) == number


def test_an_invite_that_ran_out_or_was_taken_back_or_never_was_lets_nobody_in(engine: sa.Engine) -> None:
    late = invited(engine, lasts=timedelta(days=2), at=NOON)
    gone = invited(engine)
    with writing(engine) as session:
        revoke_invite(session=session, invite_id=find_invite(session=session, token=gone).id)
    for token, at in ((late, NOON + timedelta(days=2)), (gone, NOON), ("nonsense", NOON), ("", NOON)):
        with pytest.raises(LoginError):
            accept_invite(engine=engine, token=token, name="Lea", passcode=PASSCODE, at=at)
    with reading(engine) as session:
        assert list_annotators(session=session) == []
    assert accept_invite(engine=engine, token=late, name="Lea", passcode=PASSCODE, at=NOON + timedelta(days=1))


def test_a_name_is_not_given_away(engine: sa.Engine) -> None:
    with writing(engine) as session:
        get_or_add_annotator(session=session, name="Lea")  # who compared before anybody logged in
    with pytest.raises(StoreError, match="called 'Lea' already"):
        join(engine)


def test_an_invite_of_a_name_is_that_persons_and_ends_their_logins(engine: sa.Engine) -> None:
    lea = join(engine, role=Role.RESEARCHER)
    browser = log_in(engine, lea)
    token = invited(engine, name="Lea")
    assert accept_invite(engine=engine, token=token, name="Mallory", passcode="another passcode") == lea
    assert whose(engine, browser) is None
    with reading(engine) as session:
        assert get_annotator(session=session, name="Lea").role == Role.RESEARCHER  # kept, as nothing else was said
    with pytest.raises(LoginError):
        check_passcode(engine=engine, name="Lea", passcode=PASSCODE)
    assert check_passcode(engine=engine, name="Lea", passcode="another passcode") == lea


@pytest.mark.parametrize(("passcode", "says"), [("short", "8 to 200"), ("x" * 201, "8 to 200"), ("LEA MOREAU", "name")])
def test_a_passcode_that_is_none_is_refused_and_the_invite_stays_good(
    engine: sa.Engine, passcode: str, says: str
) -> None:
    token = invited(engine)
    with pytest.raises(StoreError, match=says):
        accept_invite(engine=engine, token=token, name="Lea Moreau", passcode=passcode)
    assert accept_invite(engine=engine, token=token, name="Lea Moreau", passcode=PASSCODE)


def test_nothing_that_lets_anybody_in_lies_in_the_database(engine: sa.Engine, tmp_path: Path) -> None:
    token = invited(engine)
    lea = accept_invite(engine=engine, token=token, name="Lea", passcode=PASSCODE)
    browser = log_in(engine, lea)
    with sqlite3.connect(tmp_path / "pairloop.db") as connection:
        whole = "\n".join(connection.iterdump())
    assert "$argon2id$" in whole
    assert not [secret for secret in (token, browser, PASSCODE) if secret in whole]


def test_a_login_lasts_until_it_ends(engine: sa.Engine) -> None:
    lea = join(engine)
    here, there, elsewhere = (log_in(engine, lea) for _ in range(3))
    assert whose(engine, here, NOON + timedelta(days=29)) == "Lea"
    assert whose(engine, here, NOON + timedelta(days=30)) is None
    assert whose(engine, here + "x") is None
    with writing(engine) as session:
        end_login(session=session, token=here)
    assert (whose(engine, here), whose(engine, there)) == (None, "Lea")
    with writing(engine) as session:
        assert annotators.log_out_annotator(session=session, name="Lea") == 2
    assert (whose(engine, there), whose(engine, elsewhere)) == (None, None)


@pytest.mark.parametrize("end", ["deactivate", "retract", "demote"])
def test_the_links_of_who_may_not_invite_any_more_let_nobody_in(engine: sa.Engine, end: str) -> None:
    lea = join(engine, role=Role.RESEARCHER)
    theirs = [
        invited(on_behalf_of(engine, lea), role=Role.RESEARCHER),
        invited(on_behalf_of(engine, lea), by="somebody else"),
        invited(engine, name="Lea", role=Role.RESEARCHER),  # for them: it would make them what they were
    ]
    other = invited(engine, by="Max")
    with writing(engine) as session:
        {
            "deactivate": lambda: annotators.deactivate_annotator(session=session, name="Lea"),
            "retract": lambda: annotators.retract_annotator(session=session, name="Lea"),
            "demote": lambda: annotators.change_role(session=session, name="Lea", role=Role.ANNOTATOR),
        }[end]()
    for token in theirs:
        with pytest.raises(LoginError, match="lets nobody in"):
            accept_invite(engine=engine, token=token, name="Mallory", passcode=PASSCODE)
    assert accept_invite(engine=engine, token=other, name="Ben", passcode=PASSCODE)


def test_who_was_deactivated_is_out_at_once_and_stays_out_when_let_in_again(engine: sa.Engine) -> None:
    browser = log_in(engine, join(engine))
    with writing(engine) as session:
        annotators.deactivate_annotator(session=session, name="Lea")
    assert whose(engine, browser) is None
    with pytest.raises(LoginError):
        check_passcode(engine=engine, name="Lea", passcode=PASSCODE)
    with writing(engine) as session, pytest.raises(StateError, match="not active"):
        add_invite(session=session, name="Lea")
    with writing(engine) as session:
        annotators.reactivate_annotator(session=session, name="Lea")
    assert whose(engine, browser) is None
    assert check_passcode(engine=engine, name="Lea", passcode=PASSCODE)


def test_a_visit_is_written_down_now_and_then(engine: sa.Engine) -> None:
    lea = join(engine)
    token = log_in(engine, lea)
    with writing(engine) as session:
        login = find_login(session=session, token=token, at=NOON)[0]
        assert [is_stale(login, NOON + timedelta(minutes=minutes)) for minutes in (4, 6)] == [False, True]
        see_login(session=session, login_id=login.id, at=NOON + timedelta(minutes=6))
    with reading(engine) as session:
        assert last_seen(session=session) == {lea: NOON + timedelta(minutes=6)}


def test_who_never_logged_in_was_seen_when_they_last_compared(
    engine: sa.Engine, make_round: MakeRound, people: list[int]
) -> None:
    _, pairs = make_round(engine, pairs=2)
    with writing(engine) as session:
        said = [
            record_comparison(session=session, pair_id=pair.id, annotator_id=people[0], choice=Choice.LEFT)
            for pair in pairs
        ]
    with reading(engine) as session:
        assert last_seen(session=session) == {people[0]: said[-1].created_at}


def tried(engine: sa.Engine, name: str, at: datetime, passcode: str = "wrong passcode") -> str:
    """What one try comes to, in words."""
    try:
        check_passcode(engine=engine, name=name, passcode=passcode, at=at)
    except LoginError as error:
        return str(error)
    return "in"


def locked_for(engine: sa.Engine, name: str, at: datetime) -> int:
    """Seconds until the name may be tried again."""
    with pytest.raises(ThrottledError) as refused:
        check_passcode(engine=engine, name=name, passcode=PASSCODE, at=at)
    return refused.value.seconds


def test_wrong_passcodes_lock_a_name_twice_as_long_each_time_known_or_not(engine: sa.Engine) -> None:
    join(engine)
    said: dict[str, list[Any]] = {}
    for name in ("Lea", "Nobody"):
        at = NOON
        said[name] = [tried(engine, name, at) for _ in range(FREE_TRIES - 1)]
        for _ in range(12):
            said[name].append(tried(engine, name, at))
            said[name].append(locked_for(engine, name, at))
            at += timedelta(seconds=said[name][-1])
    assert said["Lea"] == said["Nobody"]
    first, longest = int(FIRST_LOCK.total_seconds()), int(LONGEST_LOCK.total_seconds())
    waits = [seconds - 1 for seconds in said["Lea"] if isinstance(seconds, int)]  # told in whole seconds, rounded up
    assert waits == [min(first * 2**power, longest) for power in range(12)]


def test_while_a_name_is_locked_the_right_passcode_waits_too(engine: sa.Engine) -> None:
    join(engine)
    for _ in range(FREE_TRIES):
        tried(engine, "Lea", NOON)
    assert "Try again in" in tried(engine, "lea", NOON, PASSCODE)  # a name's spelling is no way round
    assert tried(engine, "Lea", NOON + FIRST_LOCK, PASSCODE) == "in"
    assert "do not go together" in tried(engine, "Lea", NOON + FIRST_LOCK)  # and the count begins anew


def test_a_day_later_wrong_passcodes_are_forgotten(engine: sa.Engine) -> None:
    for hour in range(3 * FREE_TRIES):
        assert "do not go together" in tried(engine, "Lea", NOON + timedelta(hours=25 * hour))


def test_a_name_that_is_not_known_costs_the_same_work(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    join(engine)
    with writing(engine) as session:
        get_or_add_annotator(session=session, name="Ada")  # known, and without a passcode
    from store import passcodes

    work: list[str] = []
    monkeypatch.setattr(passcodes, "_matches", lambda hashed, passcode: bool(work.append(hashed.split("$")[3])))
    said = {tried(engine, name, NOON) for name in ("Lea", "Ada", "Nobody")}
    assert (len(said), len(work), len(set(work))) == (1, 3, 1)


def test_an_identity_providers_people_are_known_by_the_address_they_were_invited_under(engine: sa.Engine) -> None:
    with writing(engine) as session:
        admit_email(session=session, email=" Lea@Example.org ", name="Lea", role=Role.RESEARCHER)
        with pytest.raises(StateError, match="another annotator"):
            admit_email(session=session, email="lea@example.org", name="Max")
    with reading(engine) as session:
        found = find_email(session=session, email="LEA@example.org", issued_at=None)
        assert found is not None and (found.name, found.role) == ("Lea", "researcher")
        assert find_email(session=session, email="max@example.org", issued_at=None) is None
    with writing(engine) as session:
        annotators.log_out_annotator(session=session, name="Lea")
    later = datetime.now(UTC) + timedelta(seconds=5)
    with reading(engine) as session:  # what the provider said before that moment counts no more
        assert find_email(session=session, email="lea@example.org", issued_at=NOON) is None
        assert find_email(session=session, email="lea@example.org", issued_at=later) is not None


# Roles


def actions(tmp_path: Path) -> dict[str, Callable[[Any], Any]]:
    """All that only a researcher may do, as the store's functions are called."""
    snapshot = Snapshot(hash="0" * 64, path="snapshots/none", manifest={})
    return {
        "open a round": lambda session: rounds.add_round(session=session, checkpoint_id=1, target=2),
        "move a round": lambda session: rounds.set_round_status(
            session=session, round_id=1, status=RoundStatus.TRAINING
        ),
        "decide": lambda session: decisions.decide_round(
            session=session, round_id=1, decision=Decision.PROMOTE, by="Mallory"
        ),
        "start a run": lambda session: runs.queue_run(
            session=session, kind=RunKind.TRAIN, settings={}, requested_by="Mallory"
        ),
        "cancel": lambda session: runs.cancel_run(session=session, run_id=1),
        "retry": lambda session: runs.retry_run(session=session, run_id=1),
        "cut": lambda session: cut_snapshot(session=session, folder=tmp_path),
        "export": lambda session: export_snapshot(
            session=session, snapshot=snapshot, folder=tmp_path, target=tmp_path / "out"
        ),
        "retract": lambda session: annotators.retract_annotator(session=session, name="Ben"),
        "deactivate": lambda session: annotators.deactivate_annotator(session=session, name="Ben"),
        "reactivate": lambda session: annotators.reactivate_annotator(session=session, name="Ben"),
        "log out": lambda session: annotators.log_out_annotator(session=session, name="Ben"),
        "raise oneself": lambda session: annotators.change_role(session=session, name="Lea", role=Role.RESEARCHER),
        "invite": lambda session: invites.add_invite(session=session),
        "invite by e-mail": lambda session: invites.admit_email(session=session, email="m@example.org", name="M"),
        "take back": lambda session: invites.revoke_invite(session=session, invite_id=1),
        "count": lambda session: count_found(session=session, search=Search()),
        "search": lambda session: find_comparisons(session=session, search=Search(), limit=1),
        "pace": lambda session: read_pace(session=session, search=Search()),
        "csv": lambda session: write_csv(session=session, search=Search(), stream=None),  # type: ignore[arg-type]
        "decide about a pair": lambda session: record_comparison(
            session=session, pair_id=1, annotator_id=person_of(session), choice=Choice.LEFT, adjudicates=True
        ),
        "take a decision back": lambda session: take_back_decision(
            session=session, comparison_id=1, annotator_id=person_of(session)
        ),
        "put guidelines in force": lambda session: put_in_force(session=session, text="Be kind."),
        "trace": lambda session: trace_comparison(session=session, comparison_id=1),
        "chat": lambda session: exchanges.add_exchange(
            session=session, asked_by_id=1, messages=[], checkpoints=(Checkpoint(), Checkpoint()), seed=0, settings={}
        ),
        "read a chat": lambda session: exchanges.read_exchange(session=session, exchange_id=1),
        "list chats": lambda session: exchanges.latest_exchanges(
            session=session, asked_by_id=person_of(session) or 0, limit=1
        ),
        "ask what chats came to": lambda session: playground_pairs.kept_exchanges(session=session),
        "stop a chat": lambda session: writing_exchanges.stop_exchange(session=session, exchange_id=1),
        "make a pair": lambda session: playground_pairs.keep_prompt(session=session, exchange_id=1, held_out_share=0),
    }


@pytest.mark.parametrize("what", actions(Path()))
def test_the_store_refuses_an_annotator_what_only_a_researcher_may_do(
    what: str, engine: sa.Engine, people: list[int], tmp_path: Path
) -> None:
    lea = join(engine)
    with pytest.raises(NotAllowedError, match="Only a researcher may"), writing(on_behalf_of(engine, lea)) as session:
        actions(tmp_path)[what](session)


def test_nobody_compares_takes_back_or_rewrites_in_somebody_elses_name(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    _, (pair, other) = make_round(engine, pairs=2)
    with writing(engine) as session:
        said = record_comparison(session=session, pair_id=pair.id, annotator_id=people[0], choice=Choice.LEFT)
    who: dict[str, Any] = {"annotator_id": people[0]}
    for write in (
        lambda session: record_comparison(session=session, pair_id=other.id, choice=Choice.LEFT, **who),
        lambda session: undo_comparison(session=session, comparison_id=said.id, **who),
        lambda session: replace_rewrites(session=session, pair_id=pair.id, texts={"left": "Not hers."}, **who),
    ):
        with (
            pytest.raises(NotAllowedError, match="somebody else's name"),
            writing(on_behalf_of(engine, people[1])) as session,
        ):
            write(session)
        with writing(on_behalf_of(engine, people[0])) as session:
            write(session)


def test_guidelines_are_put_in_force_whoever_is_shown_them_first(tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace")
    (workspace.folder / "guidelines.md").write_text("Be kind.\n", encoding="utf-8")
    version = current_guidelines(workspace.acting_as(join(workspace.engine)))
    assert version is not None and version.text == "Be kind.\n"


def test_an_import_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    theirs = on_behalf_of(engine, join(engine))
    path = tmp_path / "asked.txt"
    path.write_text("Why?\n")
    with pytest.raises(NotAllowedError, match="import a file"):
        import_file(engine=theirs, path=path, held_out_share=0.2)


def test_a_workspace_in_an_annotators_hands_picks_no_checkpoint(tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace")
    theirs = workspace.acting_as(join(workspace.engine))
    with pytest.raises(NotAllowedError, match="pick a checkpoint"):
        pick_candidate(theirs, checkpoint="round-1", by="Mallory")


def test_a_workspace_in_a_researchers_hands_goes_round_the_loop(tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace", target=4)
    theirs = workspace.acting_as(join(workspace.engine, role=Role.RESEARCHER))
    (tmp_path / "asked.txt").write_text("Why?\nHow?\n")
    assert import_file(engine=theirs.engine, path=tmp_path / "asked.txt", held_out_share=0.2).prompts_added == 2
    seeding.open_round(theirs, seeding.plain_exchanges(4))
    seeding.compare(theirs, "Lea", [Choice.LEFT] * 4)
    seeding.train(theirs, steps=1, of=1)
    seeding.promote(theirs)
    with reading(theirs.engine) as session:
        assert [entry.decision for entry in rounds.list_rounds(session=session)] == ["promote"]


def test_a_role_is_looked_up_at_that_moment(engine: sa.Engine, people: list[int]) -> None:
    lea, _ = join(engine, role=Role.RESEARCHER), join(engine, name="Max", role=Role.RESEARCHER)
    theirs = on_behalf_of(engine, lea)
    with writing(theirs) as session:
        assert person_of(session) == lea
        annotators.deactivate_annotator(session=session, name="Ben")
        with pytest.raises(StateError, match="yourself"):
            annotators.deactivate_annotator(session=session, name="Lea")
    with writing(engine) as session:  # the machine's owner
        assert person_of(session) is None
        annotators.change_role(session=session, name="Lea", role=Role.ANNOTATOR)
    with pytest.raises(NotAllowedError), writing(theirs) as session:
        annotators.reactivate_annotator(session=session, name="Ben")


def test_a_new_login_is_somebodys(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        session.add(Login(annotator_id=99, token_hash="x"))
        session.flush()
