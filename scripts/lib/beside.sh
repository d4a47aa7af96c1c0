# Commands that run beside others. Source it with the repository root as working directory; it takes the EXIT trap.
# shellcheck shell=bash

declare -A _beside=()

# beside NAME COMMAND...: starts it; what it says is kept for `await`. All it starts ends with this script at the latest.
beside() {
  local name=$1
  shift
  mkdir -p .cache
  setsid "$@" >".cache/$name.log" 2>&1 </dev/null & # A process group of its own, so that its children can be ended, too.
  _beside[$name]=$!
}

# await NAME: waits for its end, says what it said, and answers with its exit code.
await() {
  local code=0
  wait "${_beside[$1]}" || code=$?
  unset "_beside[$1]"
  cat ".cache/$1.log"
  return "$code"
}

_end_beside() {
  local process
  for process in ${_beside[@]+"${_beside[@]}"}; do
    kill -- "-$process" 2>/dev/null || true
  done
}
trap _end_beside EXIT
