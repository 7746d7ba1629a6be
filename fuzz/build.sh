# Read by the scripts beside it: builds all targets, and says where they are and with which limits they run.

# libFuzzer's coverage and AddressSanitizer need flags that the compiler counts as unstable. It is the same compiler.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Zsanitizer=address"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$here/target}"
host=$(rustc -vV | sed -n 's/^host: //p')
# Only with a target are flags for what runs, and not for what builds it.
cargo build --release --target "$host" --locked --quiet

programs=$CARGO_TARGET_DIR/$host/release
work=$CARGO_TARGET_DIR/work
# Memory that was freed is kept from being used again, to find who still uses it: 16 MiB of it, not a quarter of a GiB. What
# is still there at the end of the process is not looked for: threads and tables of a target live as long as it does.
export ASAN_OPTIONS=quarantine_size_mb=16:detect_leaks=0:allocator_may_return_null=0
limits="-rss_limit_mb=256 -malloc_limit_mb=64 -timeout=5 -detect_leaks=0 -print_final_stats=1 -verbosity=1"
