"""A host in Python, over SQL alone.

    host.py DATABASE_URL setup
    host.py DATABASE_URL comment DOCUMENT PERSON    grace comments on it and mentions them
    host.py DATABASE_URL opened DOCUMENT PERSON     they looked at it
    host.py DATABASE_URL explain PERSON             where their journeys are, as JSON
"""

import json
import sys

import psycopg
from psycopg.types.json import Jsonb

# Whose data all of this is. A real host takes it from the session.
TENANT = "org_456"


def setup(conn):
    """The host's own tables; a real host keeps them in its own migrations."""
    with conn.transaction():
        conn.execute("create table if not exists documents (id text primary key, comments int not null default 0)")
        conn.execute("create table if not exists comments (id int generated always as identity, document_id text not null)")
        conn.execute("insert into documents (id) values ('doc_789') on conflict do nothing")


def comment(conn, document, person):
    """One transaction: the comment, the journey of the person mentioned, the document's count."""
    with conn.transaction():
        cursor = conn.execute("insert into comments (document_id) values (%s) returning id", [document])
        number = cursor.fetchone()[0]
        recipient = {"identity": person, "addresses": {"email": f"{person}@example.com"}}
        cursor = conn.execute(
            """
            select chimeway.trigger('mention_escalation', %(params)s, %(tenant)s,
                recipients => %(recipients)s, idempotency_key => %(key)s)
            """,
            {
                "params": Jsonb({"document_id": document, "comment": number}),
                "tenant": TENANT,
                "recipients": Jsonb([recipient]),
                "key": f"comment-{number}",
            },
        )
        event = cursor.fetchone()[0]
        cursor = conn.execute("update documents set comments = comments + 1 where id = %s", [document])
        if cursor.rowcount == 0:
            # Leaves the block by an exception: nothing of the above has happened.
            raise LookupError(f"there is no document {document}")
    print(f"comment {number}, event {event}")


def opened(conn, document, person):
    """Tells what the person did; it counts for every journey of theirs that has begun."""
    with conn.transaction():
        conn.execute(
            "select chimeway.track(%s, %s, 'notification_read', %s)",
            [TENANT, person, Jsonb({"document_id": document})],
        )


def explain(conn, person):
    """Where the person's journeys are and why, the newest first."""
    cursor = conn.execute(
        """
        select chimeway.explain(tenant_id, id) from chimeway.workflow_runs
        where tenant_id = %s and actor_id = %s order by started_at desc
        """,
        [TENANT, person],
    )
    print(json.dumps([row[0] for row in cursor], indent=2))


def main(url, command, *arguments):
    commands = {"setup": setup, "comment": comment, "opened": opened, "explain": explain}
    with psycopg.connect(url, autocommit=True) as conn:
        try:
            commands[command](conn, *arguments)
        except LookupError as refused:
            sys.exit(str(refused))
        except psycopg.Error as refused:
            # Chimeway's refusals have a stable SQLSTATE and say how to mend it.
            hint = refused.diag.message_hint or "no hint"
            sys.exit(f"{refused.sqlstate}: {refused.diag.message_primary} ({hint})")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[2] not in ("setup", "comment", "opened", "explain"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
