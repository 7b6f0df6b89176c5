#!/usr/bin/env bash
# onnxruntime 1.31.1 and 1.32.0 (PyPI, CPU, Linux x86-64), numpy 2.4.6, Python 3.11; 2026-11-30
#
# The wheels of Linux held no telemetry up to 1.28; from 1.29 on they do, and it is on. One would expect that
# onnxruntime.disable_telemetry_events(), called first of all, keeps a program quiet. Seen: `import onnxruntime` alone
# makes a device identifier and a database for events in ~/.cache/Microsoft/DeveloperTools/.onnxruntime, which stay, and
# starts a thread for uploads; the function comes too late for all of that, and so does ORT_DISABLE_TELEMETRY=1 when it is
# set after the import. Set before, nothing is made; the values 0, false and the empty one count as not set. (What is sent,
# and to whom, its Privacy.md says; that was not looked at here, and this script lets nothing out.)
#
#   import onnxruntime                             deviceid, onnxruntime.db
#   import, then disable_telemetry_events()        deviceid, onnxruntime.db
#   import, then ORT_DISABLE_TELEMETRY=1           deviceid, onnxruntime.db
#   ORT_DISABLE_TELEMETRY=0, then import           deviceid, onnxruntime.db
#   ORT_DISABLE_TELEMETRY=1, then import           nothing
#
# Exits with 1 if it is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset ORT_DISABLE_TELEMETRY XDG_CACHE_HOME
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet onnxruntime==1.31.1 numpy==2.4.6
# Where a proxy that nobody listens at is named, no upload leaves the machine.
export HTTPS_PROXY=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9

seen=()
try() { # NAME COMMAND...: what a process leaves in a home of its own
  local name=$1 home
  shift
  home=$(mktemp -d -p "$folder")
  env HOME="$home" "$@"
  local left
  left=$(find "$home" -type f ! -name '*-wal' ! -name '*-shm' -printf '%f\n' | sort | paste -sd, | sed 's/,/, /g')
  printf '%-46s %s\n' "$name" "${left:-nothing}"
  seen+=("${left:-nothing}")
}
python=venv/bin/python
try "import onnxruntime" $python -c "import onnxruntime"
try "import, then disable_telemetry_events()" $python -c "import onnxruntime; onnxruntime.disable_telemetry_events()"
try "import, then ORT_DISABLE_TELEMETRY=1" $python -c "import onnxruntime, os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'"
try "ORT_DISABLE_TELEMETRY=0, then import" ORT_DISABLE_TELEMETRY=0 $python -c "import onnxruntime"
try "ORT_DISABLE_TELEMETRY=1, then import" ORT_DISABLE_TELEMETRY=1 $python -c "import onnxruntime"
for i in 0 1 2 3; do
  [ "${seen[$i]}" = "deviceid, onnxruntime.db" ] || { echo "not so"; exit 1; }
done
[ "${seen[4]}" = nothing ] && echo "only the variable, before the import, keeps it quiet" || { echo "not so"; exit 1; }
