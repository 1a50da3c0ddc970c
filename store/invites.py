"""Invites: a link lets one person in, once. They say their name, choose a passcode, and have an account.

The link's token is random, and only its hash is kept. An invite for somebody who is there already sets their passcode
anew and logs them out elsewhere. People of an identity provider need no link: their e-mail address is written down.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.access_tables import Account, Invite
from store.annotators import get_annotator, get_or_add_annotator, tidy
from store.database import reading, writing
from store.errors import LoginError, StateError, StoreError, UnknownRecordError
from store.hashing import text_hash
from store.logins import end_logins, new_token
from store.models import Annotator, Role, now
from store.passcodes import get_or_add_account, hash_passcode
from store.roles import person_of, require_researcher

LASTS = timedelta(days=7)
PEOPLE = (Role.ANNOTATOR, Role.RESEARCHER)


def add_invite(
    *,
    session: Session,
    role: Role | None = None,
    name: str = "",
    by: str = "",
    lasts: timedelta = LASTS,
    at: datetime | None = None,
) -> tuple[str, Invite]:
    """An invite and its token, which is not to be had again. `name`: of somebody who is there already, or a proposal.

    `role` None: a newcomer is an annotator, and who is there already keeps theirs. Raises StoreError for a role or a
    name that is none, StateError for somebody who was deactivated, NotAllowedError.
    """
    require_researcher(session=session, to="invite somebody")
    moment = at or now()
    known = _known(session, name, role)
    token = new_token()
    invite = Invite(
        token_hash=text_hash(token),
        role=role,
        name=tidy(name),
        annotator_id=None if known is None else known.id,
        created_by=_maker(session, by),
        created_at=moment,
        expires_at=moment + lasts,
    )
    session.add(invite)
    session.flush()
    return token, invite


def _maker(session: Session, by: str) -> str:
    """Whose invite it is: whoever's session it is, if it is anybody's. What they made ends with what they may do."""
    person = person_of(session)
    return by if person is None else session.get_one(Annotator, person).name


def _known(session: Session, name: str, role: Role | None) -> Annotator | None:
    """The annotator who is meant, if they are there already and may come."""
    if role not in (None, *PEOPLE):
        raise StoreError(f"Somebody is invited as {' or '.join(PEOPLE)}, not as {role!r}.")
    try:
        known = get_annotator(session=session, name=name)
    except UnknownRecordError:
        return None
    if known.role not in PEOPLE:
        raise StoreError(f"{known.name!r} stands for no person ({known.role}), so nobody can be invited for it.")
    if not known.active:
        raise StateError(f"{known.name!r} is not active. `pairloop annotators --reactivate` lets them come again.")
    return known


def admit_email(*, session: Session, email: str, name: str, role: Role | None = None) -> Annotator:
    """Let in whoever an identity provider says has this e-mail address, as an annotator of this name.

    Raises StoreError where the address is none or somebody else's, and otherwise as `add_invite`.
    """
    require_researcher(session=session, to="invite somebody")
    email = email.strip().casefold()
    if "@" not in email or len(email) > 254:
        raise StoreError(f"{email!r} is not an e-mail address.")
    known = _known(session, name, role) or get_or_add_annotator(session=session, name=name)
    assert known.id is not None
    other = session.exec(select(Account).where(Account.email == email, Account.annotator_id != known.id)).first()
    if other is not None:
        raise StateError(f"{email} is the address of another annotator already. Nothing was changed.")
    known.role = role or known.role
    get_or_add_account(session=session, annotator_id=known.id).email = email
    session.add(known)
    session.flush()
    return known


def find_email(*, session: Session, email: str, issued_at: datetime | None) -> Annotator | None:
    """Who was invited under this verified address; None: nobody, or they were logged out after `issued_at`."""
    found = session.exec(
        select(Annotator, Account)
        .join(Account, col(Account.annotator_id) == Annotator.id)
        .where(Account.email == email.strip().casefold(), col(Annotator.active))
    ).first()
    if found is None:
        return None
    ended = found[1].ended_at
    return found[0] if ended is None or (issued_at is not None and issued_at > ended) else None


def find_invite(*, session: Session, token: str, at: datetime | None = None) -> Invite:
    """The invite of a link. Raises LoginError where it lets nobody in (any more)."""
    invite = session.exec(select(Invite).where(Invite.token_hash == text_hash(token.strip())).with_for_update()).first()
    if invite is None or invite.revoked_at is not None:
        raise LoginError("This link lets nobody in. Ask whoever sent it for another.")
    if invite.used_at is not None:
        raise LoginError("This link was used already. If that was you, log in; if not, ask for another.")
    if invite.expires_at <= (at or now()):
        raise LoginError("This link has run out. Ask whoever sent it for another.")
    return invite


def settled_name(*, session: Session, invite: Invite) -> str:
    """The name that whoever comes by an invite will have; empty where they choose it themselves.

    That is: none was proposed, or somebody else has taken it since.
    """
    if invite.annotator_id is None and _is_taken(session, invite.name):
        return ""
    return invite.name


def _is_taken(session: Session, name: str) -> bool:
    return session.exec(select(Annotator.id).where(Annotator.name == name)).first() is not None


def accept_invite(*, engine: sa.Engine, token: str, name: str, passcode: str, at: datetime | None = None) -> int:
    """Make the account that an invite is for; the id of its annotator. Raises LoginError, StoreError.

    `name`: what they call themselves, where the invite does not settle it. One that is there already is not given away:
    its owner's invite says so itself.
    """
    with reading(engine) as session:
        invite = find_invite(session=session, token=token, at=at)
        name = tidy(settled_name(session=session, invite=invite) or name)
    hashed = hash_passcode(passcode, name=name)
    with writing(engine) as session:
        invite = find_invite(session=session, token=token, at=at)
        annotator = _invited(session, invite, name)
        assert annotator.id is not None
        annotator.role = invite.role or annotator.role
        get_or_add_account(session=session, annotator_id=annotator.id).passcode_hash = hashed
        end_logins(session=session, annotator_id=annotator.id)
        invite.used_at = at or now()
        invite.annotator_id = annotator.id
        session.add_all([annotator, invite])
        return annotator.id


def _invited(session: Session, invite: Invite, name: str) -> Annotator:
    if invite.annotator_id is not None:
        known = session.get_one(Annotator, invite.annotator_id)
        if not known.active:
            raise LoginError("You cannot come in any more. Ask a researcher of your team.")
        return known
    if _is_taken(session, name):
        raise StoreError(f"Somebody is called {name!r} already. Choose another name, or ask for a link of that name.")
    return get_or_add_annotator(session=session, name=name)


def open_invites(*, session: Session, at: datetime | None = None) -> list[Invite]:
    """The links that still let somebody in, the newest first."""
    query = select(Invite).where(
        col(Invite.used_at).is_(None), col(Invite.revoked_at).is_(None), col(Invite.expires_at) > (at or now())
    )
    return list(session.exec(query.order_by(col(Invite.id).desc())))


def revoke_invite(*, session: Session, invite_id: int) -> None:
    """Let a link that was not used let nobody in. Raises NotAllowedError."""
    require_researcher(session=session, to="revoke an invite")
    invite = session.get_one(Invite, invite_id)
    if invite.used_at is None and invite.revoked_at is None:
        invite.revoked_at = now()
        session.add(invite)


def has_accounts(*, session: Session) -> bool:
    """Whether anybody can log in, by passcode or e-mail address."""
    return session.scalar(_ANY_ACCOUNT) is not None


_ANY_ACCOUNT = select(Account.annotator_id).limit(1)


def accounts(*, session: Session) -> dict[int, str]:
    """The annotators who can log in, each with their e-mail address where an identity provider knows them by one."""
    rows = session.exec(select(Account.annotator_id, Account.email))
    return {annotator_id: email or "" for annotator_id, email in rows}
