# The menu. Nothing needs `just`: every recipe is a script or a cargo command.
_default:
    @just --list

# Chimeway at work, on a private PostgreSQL
demo *arguments:
    scripts/demo {{arguments}}

# What this machine can do: journeys, floor, latency, waiting, growth (docs/performance.md)
bench *arguments:
    cargo run --release -p chimeway-worker -- bench {{arguments}}

# Whether tables and indexes level off under a load with short retention; ten minutes
soak *arguments:
    scripts/soak {{arguments}}

# The same journeys over apalis-postgres jobs, for ADR 0001 (benches/over-apalis-postgres)
bench-over-apalis *arguments:
    cargo run --release --manifest-path benches/over-apalis-postgres/Cargo.toml -- {{arguments}}

# Every test, or those that match
test *arguments:
    scripts/test {{arguments}}

# Tests that need no database
test-pure *arguments:
    cargo test -p chimeway --lib {{arguments}}

# What goes wrong, for long and with settings as they are shipped (docs/chaos.md)
chaos *arguments:
    scripts/chaos --long {{arguments}}

# The whole gate, as in CI
check:
    .ci/run

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Licenses, banned crates and sources of the dependencies
deny *arguments:
    scripts/deny {{arguments}}

# Run the tests and take the snapshots they produce
accept *arguments:
    INSTA_UPDATE=always scripts/test {{arguments}}

# Refresh the cached statements after a change of SQL
prepare:
    scripts/prepare-queries

docs:
    cargo doc --workspace --no-deps --open
