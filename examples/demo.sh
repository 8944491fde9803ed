#!/usr/bin/env bash
# The main job on a real Go project, from one machine posing as two CI nodes: run by `make demo`.
#
# Node A builds the oras client (315 packages) from nothing and exports its Go caches to the embedded disk store.
# Node B, with a home and caches of its own, imports them and builds the same. Needs only cargo, go and their registries.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for program in cargo go; do
  command -v "$program" >/dev/null || { echo "demo: $program is missing" >&2; exit 1; }
done

target=${CARGO_TARGET_DIR:-target}
echo '== building cachectl'
cargo build --profile demo --locked --quiet --bin cachectl
cachectl=$(cd "$target/demo" && pwd)/cachectl

work=$(mktemp -d "${TMPDIR:-/tmp}/cachectl-demo.XXXXXX")
# Go makes its module cache read-only.
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT

# What a user's own go configuration says about proxies holds on both nodes.
settings=()
for name in GOPROXY GOSUMDB GONOSUMDB GONOPROXY GOPRIVATE GOFLAGS GOTOOLCHAIN; do
  settings+=("$name=$(go env "$name")")
done

# Runs a command as a node that has nothing but its own home: `on <node> <command>…`, in its own checkout.
on() {
  local home=$work/$1
  shift
  (
    cd "$home/src"
    env -u GOCACHE -u GOMODCACHE -u GOPATH -u XDG_CACHE_HOME -u XDG_STATE_HOME -u XDG_CONFIG_HOME -u CI \
      HOME="$home" "${settings[@]}" CACHECTL_STORE="disk:$work/store" "$@"
  )
}

# Builds on a node; prints the seconds and counts runs of the compiler.
build() {
  local began ended
  began=$(date +%s%N)
  on "$1" go build -x -trimpath -o "$work/$1/oras" oras.land/oras/cmd/oras 2>"$work/$1/trace"
  ended=$(date +%s%N)
  compiled=$(grep -c '/compile -o ' "$work/$1/trace" || true)
  seconds=$(awk "BEGIN {printf \"%.1f\", ($ended - $began) / 1e9}")
}

for node in a b; do
  mkdir -p "$work/$node/src"
  cp tests/tools/oras/go.mod tests/tools/oras/go.sum "$work/$node/src/"
done

echo '== node A: go mod download, cold build'
on a go mod download all
build a
cold_compiled=$compiled cold_seconds=$seconds
echo "   $cold_compiled packages compiled in $cold_seconds s"

echo '== node A: cachectl export go'
on a "$cachectl" export go --strict

echo '== node B: cachectl import go'
began=$(date +%s%N)
on b "$cachectl" import go --require-hit
import_seconds=$(awk "BEGIN {printf \"%.1f\", ($(date +%s%N) - $began) / 1e9}")

echo '== node B: warm build, module proxies off'
settings+=(GOPROXY=off)
build b
echo "   $compiled packages compiled in $seconds s"
on b go mod verify

cat <<SUMMARY

              cold node A   warm node B
  import                -   ${import_seconds} s
  build         ${cold_seconds} s        ${seconds} s
  compiled      ${cold_compiled}           ${compiled} packages
SUMMARY
if [ "$compiled" != 0 ]; then
  echo "demo: node B compiled $compiled packages, 0 expected" >&2
  exit 1
fi
