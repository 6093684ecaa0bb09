# shellcheck shell=bash
# Starts, finds and ends the servers.
#
# A server is found by a mark in its environment, which names the part and this data folder. A process number in a file
# may be stale and belong to another process by now, and the mark cannot. A user sees only the marks of their own
# processes (root sees all), and these are the processes that they may signal.

mark_of() { echo "SECKILL_STACK=$1@$dir"; }

pids_of() { # PART: the server, and children of it such as a Redis rewriting its log
  local file
  # The pattern comes through a file, so that grep does not find itself.
  grep -lzxFs -f <(mark_of "$1") /proc/[0-9]*/environ | while IFS=/ read -r _ _ file _; do echo "$file"; done || true
}

pid_of() { # PART: the server itself, which leads its session; fails when it is not running
  local pid stat
  while read -r pid; do
    stat=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
    read -r _ _ _ session _ <<<"${stat##*) }"
    [[ $session == "$pid" ]] || continue
    echo "$pid"
    return
  done < <(pids_of "$1")
  return 1
}

is_paused() { # PID
  grep -qs '^State:[[:space:]]*T' "/proc/$1/status"
}

wait_gone() { # PART SECONDS
  local deadline=$((SECONDS + $2))
  while [[ -n $(pids_of "$1") ]]; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

port_answers() { # PORT
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

require_free_port() { # PART KEY_OF_PORT
  local port=${!2} holder= deadline=$((SECONDS + 5))
  # A process that was killed loses its environment, and so its mark, before its port.
  while port_answers "$port" && ((SECONDS < deadline)); do sleep 0.1; done
  port_answers "$port" || return 0
  if command -v ss >/dev/null; then
    holder=$(ss -Hltnp "sport = :$port" 2>/dev/null | sed -n 's/.*users:((\([^)]*\)).*/ (\1)/p' | head -n 1)
  fi
  tell "$1" "port $port is held by another process$holder: end it, or choose another with STACK_$2=…"
  return 1
}

launch() { # PART PROGRAM ARGUMENT…: outlives us and keeps nothing of our caller open; its pid in $launched
  local part=$1 log fd
  shift
  log=$(log_of "$part")
  [[ ! -e $log ]] || mv -f "$log" "$log.1"
  (
    cd "$data" || exit
    exec </dev/null >"$log" 2>&1
    for fd in /proc/self/fd/*; do
      fd=${fd##*/}
      ((fd <= 2)) || exec {fd}>&-
    done
    # The server does not get the caller's TMPDIR, which may go away before the server does.
    exec env "$(mark_of "$part")" "TMPDIR=$run_tmp" setsid "$@"
  ) &
  launched=$!
}

wait_healthy() { # PART PID SECONDS
  local part=$1 pid=$2 started=$SECONDS said=$SECONDS version
  until version=$("health_${part%%-*}" "$part"); do
    if ! kill -0 "$pid" 2>/dev/null; then
      tell "$part" "ended; the last of $(log_of "$part"):"
      tail -n 15 "$(log_of "$part")" | sed 's/^/    /' >&2
      return 1
    fi
    if ((SECONDS - started >= $3)); then
      tell "$part" "not healthy after $3 s; see $(log_of "$part")"
      return 1
    fi
    if ((SECONDS - said >= 5)); then
      said=$SECONDS
      tell "$part" "still starting after $((SECONDS - started)) s"
    fi
    sleep 0.1
  done
  tell "$part" "up, $version"
}

start_part() { # PART
  local part=$1 service=${1%%-*} spec pid
  spec=$conf/$part.new
  "spec_$service" "$part" >"$spec"
  if pid=$(pid_of "$part"); then
    if cmp -s "$spec" "$conf/$part"; then
      ! is_paused "$pid" || kill -CONT "$pid"
      wait_healthy "$part" "$pid" 60
      return
    fi
    tell "$part" "runs with other settings; starting it anew"
    stop_part "$part"
  fi
  mv -f "$spec" "$conf/$part"
  require_free_port "$part" "$(port_key "$part")"
  "start_$service" "$part"
  wait_healthy "$part" "$launched" 60
}

stop_part() { # PART: gently, then not
  local part=$1 pids
  mapfile -t pids < <(pids_of "$part")
  if ! ((${#pids[@]})); then
    tell "$part" "not running"
    return
  fi
  tell "$part" "stopping"
  kill -TERM "${pids[@]}" 2>/dev/null || true
  kill -CONT "${pids[@]}" 2>/dev/null || true
  wait_gone "$part" 20 && return
  tell "$part" "does not end; kill -9"
  mapfile -t pids < <(pids_of "$part")
  kill -KILL "${pids[@]}" 2>/dev/null || true
  wait_gone "$part" 5
}

report() { # PART…: a line each; fails unless all are healthy
  local lines bad=0
  lines=$(in_parallel report_part "$@" && exit "$failed") || bad=1
  sort <<<"$lines"
  return "$bad"
}

report_part() { # PART
  local part=$1 pid health=healthy version=- failed=0
  if ! pid=$(pid_of "$part"); then
    pid=- health=down
  elif is_paused "$pid"; then
    health=paused
  elif ! version=$("health_${part%%-*}" "$part"); then
    health=unhealthy version=-
  fi
  [[ $health == healthy ]] || failed=1
  printf '%-8s pid %-8s 127.0.0.1:%-6s %-10s %s\n' "$part" "$pid" "$(port_of "$part")" "$health" "$version"
  return "$failed"
}
