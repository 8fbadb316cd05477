// A host in Node, over SQL alone.
//
//   node host.js DATABASE_URL setup
//   node host.js DATABASE_URL comment DOCUMENT PERSON    grace comments on it and mentions them
//   node host.js DATABASE_URL opened DOCUMENT PERSON     they looked at it
//   node host.js DATABASE_URL explain PERSON             where their journeys are, as JSON

import pg from "pg";

// Whose data all of this is. A real host takes it from the session.
const TENANT = "org_456";

class Refused extends Error {}

// Runs `work` in a transaction: kept if it returns, taken back if it throws.
async function transaction(client, work) {
  await client.query("begin");
  try {
    const result = await work();
    await client.query("commit");
    return result;
  } catch (error) {
    await client.query("rollback");
    throw error;
  }
}

const commands = {
  // The host's own tables; a real host keeps them in its own migrations.
  async setup(client) {
    await client.query(`
      create table if not exists documents (id text primary key, comments int not null default 0);
      create table if not exists comments (id int generated always as identity, document_id text not null);
      insert into documents (id) values ('doc_789') on conflict do nothing`);
  },

  // One transaction: the comment, the journey of the person mentioned, the document's count.
  async comment(client, document, person) {
    const done = await transaction(client, async () => {
      const written = await client.query("insert into comments (document_id) values ($1) returning id", [document]);
      const number = written.rows[0].id;
      const recipients = [{ identity: person, addresses: { email: `${person}@example.com` } }];
      const triggered = await client.query(
        `select chimeway.trigger('mention_escalation', $1, $2,
             recipients => $3, idempotency_key => $4) as event`,
        // Arrays become PostgreSQL's arrays unless they are written as JSON here.
        [{ document_id: document, comment: number }, TENANT, JSON.stringify(recipients), `comment-${number}`],
      );
      const counted = await client.query("update documents set comments = comments + 1 where id = $1", [document]);
      if (counted.rowCount === 0) {
        throw new Refused(`there is no document ${document}`);
      }
      return { number, event: triggered.rows[0].event };
    });
    console.log(`comment ${done.number}, event ${done.event}`);
  },

  // Tells what the person did; it counts for every journey of theirs that has begun.
  async opened(client, document, person) {
    await client.query("select chimeway.track($1, $2, 'notification_read', $3)", [
      TENANT,
      person,
      { document_id: document },
    ]);
  },

  // Where the person's journeys are and why, the newest first.
  async explain(client, person) {
    const explained = await client.query(
      `select chimeway.explain(tenant_id, id) as run from chimeway.workflow_runs
       where tenant_id = $1 and actor_id = $2 order by started_at desc`,
      [TENANT, person],
    );
    console.log(JSON.stringify(explained.rows.map((row) => row.run), null, 2));
  },
};

const [url, name, ...args] = process.argv.slice(2);
if (!Object.hasOwn(commands, name ?? "")) {
  console.error("usage: node host.js DATABASE_URL setup | comment DOCUMENT PERSON | opened DOCUMENT PERSON | explain PERSON");
  process.exit(1);
}
const client = new pg.Client({ connectionString: url });
await client.connect();
try {
  await commands[name](client, ...args);
} catch (error) {
  if (error instanceof Refused) {
    console.error(error.message);
  } else if (error instanceof pg.DatabaseError) {
    // Chimeway's refusals have a stable SQLSTATE and say how to mend it.
    console.error(`${error.code}: ${error.message} (${error.hint ?? "no hint"})`);
  } else {
    throw error;
  }
  process.exitCode = 1;
} finally {
  await client.end();
}
