"""A host application in Python: it writes a row of its own and triggers a workflow in one transaction.

    host.py DATABASE_URL

Prints what it did as one JSON document.
"""

import json
import sys

import psycopg
from psycopg.types.json import Jsonb


def mention(conn, person):
    """Writes a comment that mentions a person, and triggers; the caller ends the transaction."""
    conn.execute("insert into comments (author) values (%s)", ["grace"])
    cursor = conn.execute(
        """
        select chimeway.trigger(
            workflow => 'mention_escalation',
            params => %(params)s,
            tenant_id => 'org_456',
            recipients => %(recipients)s,
            idempotency_key => %(key)s
        )
        """,
        {
            "params": Jsonb({"document_id": "doc_789", "excerpt": "größer ☕"}),
            "recipients": Jsonb([{"identity": person, "addresses": {"email": f"{person}@example.com"}}]),
            "key": f"mention of {person}",
        },
    )
    return str(cursor.fetchone()[0])


def main(url):
    did = {}
    with psycopg.connect(url) as conn:
        did["kept"] = mention(conn, "ada")
        conn.commit()

        did["taken_back"] = mention(conn, "mary")
        conn.rollback()

        # What came of an attempt is not known to somebody who lost the connection: they try again.
        did["again"] = mention(conn, "ada")
        conn.rollback()

        cursor = conn.execute(
            "select chimeway.track(%s, %s, %s, %s)",
            ["org_456", "ada", "notification_read", Jsonb({"device": "phone"})],
        )
        did["signal"] = str(cursor.fetchone()[0])
        conn.commit()

        try:
            conn.execute("select chimeway.trigger('no_such', '{}', 'org_456', '[{\"identity\": \"ada\"}]')")
        except psycopg.Error as refused:
            did["refused"] = [refused.sqlstate, refused.diag.message_primary, refused.diag.message_hint]
            conn.rollback()

        try:
            # The context manager of a savepoint: the transaction itself goes on.
            with conn.transaction():
                conn.execute("insert into comments (author) values ('nobody')")
                conn.execute("select chimeway.track('org_456', ' ', 'notification_read')")
        except psycopg.Error as refused:
            did["refused_signal"] = refused.sqlstate
    print(json.dumps(did))


if __name__ == "__main__":
    main(sys.argv[1])
