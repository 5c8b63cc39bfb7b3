#!/bin/bash
# `make demo`: one job by hand, on directories of its own; then what it used, its log, and that nothing is left.
set -u
SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BIN=$("$SOURCE/tests/env/setup.sh" where)/bin
AD=${1:-$SOURCE/etc/examples/hello.ad}
TOP=$(mktemp -d "${TMPDIR:-/var/tmp}/condor-starter-demo.XXXXXX")
NAME=$(basename "$TOP") STATUS=0 LEFT=0
chmod 755 "$TOP"; trap 'rm -rf --one-file-system "$TOP"' EXIT
title() { printf '\n== %s\n' "$*"; }
knobs() { printf -- '--knob\n%s\n' EXECUTE="$TOP/execute" LOG="$TOP/log" STARTER_RUN_DIR="$TOP/run" BASE_CGROUP="$NAME"; }
mapfile -t KNOBS < <(knobs)

if [ "$(id -u)" = 0 ]; then WHO="root: cgroup and namespaces"; else WHO="uid $(id -u): no root, hence the rlimit backend"; fi
title "starterctl run ${AD#"$SOURCE"/}   (as $WHO)"
: >"$TOP/output.ad"
"$BIN/starterctl" run "${KNOBS[@]}" --output-ad "$TOP/output.ad" "$AD" || STATUS=$?
title "exit status $STATUS, and what the job used"
grep -E '^(ExitCode|ExitBySignal|ExitSignal|HoldReason.*|RemoteUserCpu|RemoteSysCpu|MemoryUsage|ResidentSetSize|DiskUsage|JobDuration|CommittedTime|.*WallClock.*|NumPids) = ' "$TOP/output.ad"
title "its StarterLog"
cat "$TOP"/log/StarterLog.*

title "what is left"
left() { [ -z "$2" ] || { LEFT=1; printf 'LEFT: %s\n%s\n' "$1" "$2"; return; }; printf 'no %s\n' "$1"; }
left "process in its cgroup" "$(find /sys/fs/cgroup -path "*/$NAME/*" -name cgroup.procs -exec cat {} + 2>/dev/null)"
left "cgroup of the job" "$(find /sys/fs/cgroup -path "*/$NAME/*" -type d ! -name supervisor 2>/dev/null)"
left "mount" "$(grep -F "$NAME" /proc/self/mounts)"
left "scratch directory" "$(ls -A "$TOP/execute")"
left "open ledger entry" "$(ls -A "$TOP/run/ledger")"
find /sys/fs/cgroup -depth -name "$NAME" -type d -exec rmdir {} \; 2>/dev/null   # the empty base, which was the demo's own
[ $LEFT = 0 ] || exit 1
exit $STATUS
