# shellcheck shell=bash
# Folders, settings, messages and the lock. Data goes to stdout, and messages for people go to stderr.

all_parts=(redis mysql-a mysql-b kafka)

say() { printf 'stack: %s\n' "$*" >&2; }
tell() { printf 'stack: %-8s %s\n' "$1" "${*:2}" >&2; }
die() {
  say "$*"
  exit 1
}
die_usage() {
  say "$*; see scripts/stack --help"
  exit 2
}

[[ -e /proc/self/environ ]] || die "needs Linux"

# Debian puts mysqld and mariadbd into folders that only root's PATH has.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# The path is resolved once, so that a symbolic link does not make a second stack of the same folder.
dir=$(realpath -m -- "${STACK_DIR:-$here/../.stack}")
# Redis, Kafka and unpack-mysql each give one of these characters a meaning of its own.
[[ $dir != *[[:space:]:,\"\'\\%]* ]] || die "the path of the data folder has a character that the servers cannot take: $dir (set STACK_DIR)"
data=$dir/data logs=$dir/log conf=$dir/conf run_tmp=$dir/tmp tls=$dir/tls
dist=$(realpath -m -- "${STACK_DIST:-$dir/dist}")

choose_parts() { # NAME_OF_ARRAY PART…: all when none is given
  local -n chosen=$1
  local part
  shift
  chosen=("${all_parts[@]}")
  (($#)) || return 0
  for part; do
    [[ " ${all_parts[*]} " == *" $part "* ]] || die_usage "unknown part: $part (there are: ${all_parts[*]})"
  done
  # shellcheck disable=SC2034  # the caller's array
  chosen=("$@")
}

settings=()

load_settings() { # FILE…: the first says what there is, the others change it, the environment wins
  local file line key override
  settings=()
  for file; do
    while IFS= read -r line || [[ -n $line ]]; do
      [[ $line =~ ^([A-Z][A-Z0-9_]*)=(.*)$ ]] || continue
      key=${BASH_REMATCH[1]} override=STACK_${BASH_REMATCH[1]}
      if [[ $file == "$1" ]]; then settings+=("$key"); fi
      [[ " ${settings[*]} " != *" $key "* ]] || declare -g "$key=${!override:-${BASH_REMATCH[2]}}"
    done <"$file"
  done
  [[ $DB == mysql || $DB == mariadb ]] || die_usage "DB is '$DB'; mysql and mariadb are possible"
}

# Loads what the last `up` used, so that status and restart need not be given its environment again.
load_effective_settings() {
  local files=("$here/stack.env")
  [[ ! -e $dir/stack.env ]] || files+=("$dir/stack.env")
  load_settings "${files[@]}"
}

save_settings() {
  local key
  echo "# Written by scripts/stack up: the settings in force. To change them see scripts/stack.env."
  for key in "${settings[@]}"; do printf '%s=%s\n' "$key" "${!key}"; done
}

server_settings() { # PREFIX SEPARATOR: "name value" of each setting under that prefix
  local key name
  for key in "${settings[@]}"; do
    [[ $key == "$1"* ]] || continue
    name=${key#"$1"}
    name=${name,,}
    printf '%s %s\n' "${name//_/$2}" "${!key}"
  done
}

port_key() { # PART
  case $1 in
    redis) echo REDIS_PORT ;;
    mysql-a) echo MYSQL_A_PORT ;;
    mysql-b) echo MYSQL_B_PORT ;;
    kafka) echo KAFKA_PORT ;;
  esac
}
port_of() {
  local key
  key=$(port_key "$1")
  echo "${!key}"
}
log_of() { echo "$logs/$1.log"; }

lock() { # held until this process ends; the servers do not inherit it
  [[ -z ${lock_fd-} ]] || return 0
  mkdir -p "$dir"
  exec {lock_fd}>"$dir/lock"
  flock -n "$lock_fd" && return
  say "another scripts/stack is at work on $dir; waiting for it"
  flock -w 600 "$lock_fd" || die "it still is after 10 minutes"
}

# Runs a function in parallel, once for each argument. $failed counts those that failed. It is not an exit status,
# because a caller that tests the exit status of a function switches off `set -e` within it.
in_parallel() { # FUNCTION ARGUMENT…
  local function=$1 argument pids=() pid
  shift
  failed=0
  for argument; do
    "$function" "$argument" &
    pids+=("$!")
  done
  # Processes in the background ignore Ctrl-C, so the trap ends them.
  # shellcheck disable=SC2064
  trap "kill ${pids[*]} 2>/dev/null; exit 130" INT TERM
  for pid in "${pids[@]}"; do wait "$pid" || failed=$((failed + 1)); done
  trap - INT TERM
}
