# shellcheck shell=bash
# Redis. Its specification is its configuration file.

spec_redis() {
  local name value
  cat <<END
bind 127.0.0.1
port $REDIS_PORT
daemonize no
set-proc-title no
dir "$data/redis"
END
  while read -r name value; do printf '%s "%s"\n' "$name" "$value"; done < <(server_settings REDIS_CFG_ -)
}

start_redis() {
  mkdir -p "$data/redis"
  tell redis "starting"
  launch redis redis-server "$conf/redis"
}

health_redis() { # its version, when it serves our data folder and has loaded it
  local answer
  answer=$(timeout 2 redis-cli -h 127.0.0.1 -p "$REDIS_PORT" --raw <<<$'CONFIG GET dir\nPING\nINFO server' 2>/dev/null) || return 1
  [[ $answer == "dir"$'\n'"$data/redis"$'\n'"PONG"* ]] || return 1
  sed -n 's/^redis_version:\([^\r]*\).*/Redis \1/p' <<<"$answer"
}
