//! Stories over a real PostgreSQL, real processes, separate connections for races.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

// The main job, from beginning to end.
mod spine;

// What a workflow may consist of, and how it is told.
mod action_locks;
mod actions;
mod approvals;
mod cancel;
mod conditions;
mod definitions;
mod matching;
mod notify;
mod outcomes;
mod preferences;
mod retry;
mod signals;
mod state_change_rows;
mod state_changes;
mod wait;

// The behavior of the original, by the numbers of `docs/scenarios.md`.
mod scenarios;

// The ways in.
mod address_book;
mod custom_channel;
mod email;
mod examples;
mod extending;
mod grants;
mod http_api;
mod http_channel;
mod inbox;
mod private_targets;
mod progression;
mod purchase;
mod python_host;
mod recipients;
mod sql_refusals;
mod sql_security;
mod templates;
mod tenants;
mod trigger_api;
mod trigger_many;
mod trigger_sql;
mod webhook;
mod workflow_api;

// What a person sees.
mod bad_input;
mod bench;
mod cli;
mod cli_approvals;
mod cli_prune;
mod cli_refusals;
mod cli_worker;
mod deploy;
mod dev;
mod docs;
mod doctor;
mod explain;
mod init;
mod privacy;
mod queues;
mod secrets;

// Workers, processes, races.
mod backend;
mod bad_items;
mod chaos;
mod crashes;
mod cron;
mod dead_network;
mod dispatch;
mod failover;
mod fairness;
mod floors;
mod hosts;
mod late;
mod metrics;
mod observing;
mod otlp;
mod pooled;
mod postgres_tls;
mod races;
mod replay;
mod retention;
mod retention_ends;
mod retention_races;
mod session_races;
mod sharing;
mod soak;
mod spans;
mod timing;
mod upgrade;
mod worker_deaths;

// The schema and the source tree.
mod plans;
mod schema;
mod tidy;

// What they share.
mod audit;
mod checkers;
mod fleet;
mod host;
mod invariants;
mod logs;
mod pgbouncer;
mod process;
mod programs;
mod proxy;
mod receiver;
mod running;
mod source;
mod support;
mod tools;
