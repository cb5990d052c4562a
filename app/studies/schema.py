"""The tables. Times are seconds since 1970 in UTC; a judgment is never changed, a correction is a row of a higher version.

Triggers of the first migration refuse UPDATE and DELETE on ``judgment`` and ``guideline``, whoever asks.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True)


def _of(table: str, nullable: bool = False, name: str | None = None) -> Column[int]:
    return Column(name or f"{table}_id", Integer, ForeignKey(f"{table}.id"), nullable=nullable)


# -- people ----------------------------------------------------------------------------------------------------------

account: Final = Table(
    "account",
    metadata,
    _id(),
    Column("name", String(64), nullable=False, unique=True),  # folded: case and width of letters make no second account
    Column("role", String(16), nullable=False),
    Column("password", Text, nullable=False),  # argon2id, with its own salt and cost
    Column("created", Double, nullable=False),
    Column("disabled", Double),
    CheckConstraint("role IN ('clinician', 'researcher', 'annotator', 'admin')", name="role"),
)
web_session: Final = Table(
    "web_session",
    metadata,
    Column("token_sha256", String(64), primary_key=True),  # who reads the table cannot take a session over
    _of("account"),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
)
sign_in: Final = Table(
    "sign_in",
    metadata,
    _id(),
    Column("name", String(64), nullable=False),
    Column("address", String(64), nullable=False),
    Column("at", Double, nullable=False),
    Column("succeeded", Boolean, nullable=False),
    Index(None, "name", "at"),
    Index(None, "address", "at"),
)
invitation: Final = Table(
    "invitation",
    metadata,
    _id(),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    _of("study", nullable=True),
    _of("account", name="created_by"),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    _of("account", nullable=True, name="used_by"),
)

# -- what is judged --------------------------------------------------------------------------------------------------

study: Final = Table(
    "study",
    metadata,
    _id(),
    Column("name", String(120), nullable=False),
    Column("state", String(16), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("created", Double, nullable=False),
    _of("account", nullable=True, name="created_by"),
    Column("origin_sha256", String(64)),  # of the bundle that it was imported from
    CheckConstraint("state IN ('draft', 'open', 'closed')", name="state"),
)
guideline: Final = Table(
    "guideline",
    metadata,
    _id(),
    _of("study"),
    Column("version", Integer, nullable=False),
    Column("criteria", JSON, nullable=False),
    Column("created", Double, nullable=False),
    UniqueConstraint("study_id", "version"),
)
system: Final = Table(
    "system",
    metadata,
    _id(),
    _of("study"),
    Column("name", String(120), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("checkpoint_sha256", String(64)),
    UniqueConstraint("study_id", "name"),
    CheckConstraint("kind IN ('checkpoint', 'person', 'upload')", name="kind"),
)
item: Final = Table(
    "item",
    metadata,
    _id(),
    _of("study"),
    Column("key", String(200), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("problem", Text, nullable=False),
    Column("situation", Text, nullable=False),
    Column("turns", JSON, nullable=False),
    Column("emotion", String(32)),
    Column("strategy", String(64)),
    UniqueConstraint("study_id", "key"),
    CheckConstraint("kind IN ('official', 'gate', 'practice')", name="kind"),
)
response: Final = Table(
    "response",
    metadata,
    _id(),
    _of("item"),
    _of("system", nullable=True),
    Column("text", Text, nullable=False),
    Column("checkpoint_sha256", String(64)),
    Column("created", Double, nullable=False),
    UniqueConstraint("item_id", "system_id"),
)
pair: Final = Table(
    "pair",
    metadata,
    _id(),
    _of("study"),
    _of("item"),
    Column("kind", String(16), nullable=False),
    _of("response", name="left_id"),
    _of("response", name="right_id"),
    Column("position", Integer, nullable=False),  # in the study's random order
    # How urgently another rater is wanted: 0 a fourth, 1 a third, 2 another first one, 3 nobody has begun; null: nobody.
    Column("queue", Integer),
    Column("state", String(16), nullable=False),
    Column("gold", JSON(none_as_null=True)),
    Column("note", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    UniqueConstraint("item_id", "kind", "left_id", "right_id"),
    CheckConstraint("kind IN ('official', 'gate', 'practice', 'attention')", name="kind"),
    CheckConstraint("state IN ('open', 'settled', 'aside')", name="state"),
    Index(None, "study_id", "kind", "queue", "position"),
)

# -- judging ---------------------------------------------------------------------------------------------------------

rater: Final = Table(
    "rater",
    metadata,
    _id(),
    _of("study"),
    _of("account", nullable=True),
    Column("code", String(16), nullable=False),
    Column("joined", Double, nullable=False),
    Column("removed", Double),
    UniqueConstraint("study_id", "account_id"),
    UniqueConstraint("study_id", "code"),
)
gate: Final = Table(
    "gate",
    metadata,
    _id(),
    _of("rater"),
    Column("round", Integer, nullable=False),
    Column("passed", Boolean, nullable=False),
    Column("kappas", JSON, nullable=False),
    Column("created", Double, nullable=False),
    UniqueConstraint("rater_id", "round"),
)
assignment: Final = Table(
    "assignment",
    metadata,
    _id(),
    _of("pair"),
    _of("rater"),
    Column("kind", String(16), nullable=False),
    Column("stage", Integer, nullable=False),  # place among the pair's raters, from 1; 0 outside the official queue
    Column("round", Integer, nullable=False),  # of training; 0 in the official queue
    Column("left_first", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created", Double, nullable=False),
    UniqueConstraint("pair_id", "rater_id", "round"),
    CheckConstraint("state IN ('open', 'judged', 'declined', 'released')", name="state"),
    Index(None, "rater_id", "kind", "state"),
)
judgment: Final = Table(
    "judgment",
    metadata,
    _id(),
    _of("assignment"),
    Column("version", Integer, nullable=False),
    Column("key", String(64), nullable=False, unique=True),  # the page's own: the same request twice is one row
    Column("verdicts", JSON, nullable=False),  # criterion -> win, tie or loss of the left response; empty where declined
    Column("reason", String(32), nullable=False),  # why it could not be judged; empty where it was
    Column("comment", Text, nullable=False),
    Column("seconds", Double, nullable=False),  # by the page's own clock, without pauses
    Column("left_first", Boolean, nullable=False),
    Column("guideline_version", Integer, nullable=False),
    Column("left_sha256", String(64)),
    Column("right_sha256", String(64)),
    Column("created", Double, nullable=False),
    UniqueConstraint("assignment_id", "version"),
)
judge_verdict: Final = Table(
    "judge_verdict",
    metadata,
    _id(),
    _of("pair"),
    Column("judge", String(120), nullable=False),
    Column("criterion", String(64), nullable=False),
    Column("verdict", String(8), nullable=False),
    UniqueConstraint("pair_id", "judge", "criterion"),
)
