#!/usr/bin/env bash
# A fleet to try: musterd with its nats-server, three agents, the policies and the content of examples/. Ctrl-C stops
# all, in order. Everything is kept in .demo (or $MUSTER_DEMO_DIR) until the next start. With --once it stops as soon as
# the policies are applied.
set -euo pipefail
# Each child leads a process group of its own: Ctrl-C reaches this script only, which stops them in order.
set -m

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=${MUSTER_BIN_DIR:-${CARGO_TARGET_DIR:-target}/debug}
dir=${MUSTER_DEMO_DIR:-.demo}
once=${1:-}
# Name of each agent and the group it joins.
agents=(server:/servers web:/servers/web workstation:/workstations)
pids=()
musterd=

say() { printf '%s\n' "$*" >&2; }
fail() { say "demo: $*"; exit 1; }
alive() { kill -0 "$1" 2>/dev/null; }

stop() {
  trap - EXIT
  trap '' INT TERM
  say "demo: stopping"
  for pid in ${pids[@]+"${pids[@]}"} $musterd; do
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
}

# The value of a field of addresses.json.
address() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",]*\).*/\1/p" "$dir/musterd/addresses.json" 2>/dev/null || true; }

# True when all services are ready.
ready() { grep -q 'all services are ready' "$dir/musterd.log"; }

# Waits for a condition while musterd lives.
until_true() { # what for, seconds, command...
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@"; do
    alive "$musterd" || { tail -n 5 "$dir/musterd.log" >&2; fail "musterd ended; its log is $dir/musterd.log"; }
    [ "$SECONDS" -lt "$end" ] || fail "$what took too long; see $dir/musterd.log"
    sleep 0.1
  done
}

for name in musterd muster muster-agent; do
  [ -x "$bin/$name" ] || fail "$bin/$name is missing: run make run, or cargo build --workspace --bins"
done
running=$(address pid)
[ -z "$running" ] || ! alive "$running" || fail "a demo runs already (musterd is process $running)"
rm -rf "$dir"
mkdir -p "$dir"
trap stop EXIT
# Ctrl-C is how a demo ends.
trap 'exit 0' INT TERM

# The port that `muster` uses by itself, if nobody else has it.
port=7400
(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && port=0
"$bin/musterd" all --data-dir "$dir/musterd" --listen "127.0.0.1:$port" 2>"$dir/musterd.log" &
musterd=$!
until_true "the start of musterd" 60 test -s "$dir/musterd/addresses.json"
server=$(address api)
until_true "loading the catalogue" 60 ready
# Where `muster` finds the address, the CA that vouches for it, and the token of whoever owns the data.
MUSTER_DATA_DIR=$(cd "$dir/musterd" && pwd)
export MUSTER_DATA_DIR
say "demo: musterd is up at $server, NATS at $(sed -n 's/.*"\(tls:[^"]*\)".*/\1/p' "$dir/musterd/addresses.json")"

# Groups of the examples follow this channel, so it comes first.
"$bin/muster" content push definitions/ips examples/content/ --label first --promote stable >&2
"$bin/muster" content promote definitions/ips --stage canary >&2
"$bin/muster" apply -f examples/ >&2
for agent in "${agents[@]}"; do
  name=${agent%%:*}
  token=$("$bin/muster" token create --group "${agent#*:}" -o json | grep -o 'mjt1_[A-Za-z0-9_-]*')
  MUSTER_JOIN=$token "$bin/muster-agent" run --state-dir "$dir/agents/$name" --id "$name" --start-spread 0s 2>"$dir/$name.log" &
  pids+=($!)
done
"$bin/muster" wait --group / --agents "${#agents[@]}" --content --timeout 60s >&2
say "demo: every agent runs its policies and holds its content"
"$bin/muster" agent list >&2
[ "$once" != --once ] || exit 0

muster=$bin/muster
cat >&2 <<TRY

Try, in another terminal, where muster has to find this server:
  export MUSTER_DATA_DIR=$MUSTER_DATA_DIR
  $muster status                                   the fleet at a glance
  $muster watch                                    what happens, live
  $muster policy explain --group /servers/web      where each value comes from
  $muster settings set --group /workstations --mode push
  $muster content show definitions/ips             a channel with its revisions
  cat $dir/agents/web/current/policies/firewall.json  what an agent was given
Change a file of examples/ and follow it:
  $muster apply -f examples/ --dry-run && $muster apply -f examples/ && $muster wait --group /

Logs are in $dir. Ctrl-C stops everything.
TRY
# Until a child ends, which none should, or a signal comes.
wait -n "$musterd" "${pids[@]}" || true
fail "a process ended by itself; the logs are in $dir"
