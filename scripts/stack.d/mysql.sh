# shellcheck shell=bash The two database servers. DB says whether they are MySQL or MariaDB. Their specification is the
# command line, one word a line. They listen on TCP only: without a socket file the length of the checkout's path has no
# limit.

# Finds the server's program of the kind DB, and fails when there is none. MariaDB's package has a mysqld of its own.
find_server() {
  local version
  if [[ $DB == mariadb ]]; then
    command -v mariadbd
  elif version=$(mysqld --version 2>/dev/null) && [[ $version != *MariaDB* ]]; then
    command -v mysqld
  else
    unpacked_server
  fi
}

unpacked_server() { # complete, and not moved since: its wrapper holds its path
  local program=$dist/mysql/bin/mysqld
  [[ -e $dist/mysql/.complete && $(<"$program") == *" $dist/mysql/usr/sbin/mysqld "* ]] || return 1
  echo "$program"
}

find_client() {
  if [[ $(find_server) == "$dist"/mysql/* ]]; then
    echo "$dist/mysql/bin/mysql"
  elif [[ $DB == mariadb ]]; then
    command -v mariadb || command -v mysql
  else
    command -v mysql || command -v mariadb
  fi
}

mysql_server_package() { # the distribution's, when it has one
  local package
  has apt-cache || return 1
  while read -r package; do
    if apt_has "$package"; then
      echo "$package"
      return
    fi
  done < <(apt-cache pkgnames mysql-server-core | grep -xE 'mysql-server-core(-[0-9.]+)?' | sort -rV)
  return 1
}

database_packages() { # what apt should install for it; the core packages bring no service
  local package
  if find_server >/dev/null; then
    find_client >/dev/null || first_apt_has mysql-client-core mysql-client-core-8.4 mysql-client-core-8.0 mariadb-client-core
  elif [[ $DB == mariadb ]]; then
    printf '%s\n' mariadb-server-core mariadb-client-core
  elif ((EUID == 0)) && package=$(mysql_server_package); then
    printf '%s\n' "$package" "${package/server/client}"
  fi
}

settle_database() { # no MySQL installed or in the distribution: Debian's own, unpacked; else MariaDB
  local why=
  ! find_server >/dev/null || return 0
  say "no MySQL installed: unpacking Debian's into $dist/mysql, 49 MB"
  rm -f "$dist/mysql/.complete"
  if ! "$here/stack.d/unpack-mysql" "$dist/mysql" >"$logs/unpack-mysql.log" 2>&1; then
    why=$(tail -n 1 "$logs/unpack-mysql.log")
  fi
  if ! find_server >/dev/null; then
    say "no MySQL can be had ($why): using MariaDB"
    DB=mariadb
    find_server >/dev/null || apt_install mariadb-server-core mariadb-client-core
  fi
}

data_of() { echo "$data/$DB-${1#mysql-}"; } # PART

server_command() { # one word a line
  local program
  program=$(find_server)
  if [[ $program == "$dist"/mysql/* ]]; then
    echo "$program" # a wrapper, which adds what follows here by itself
    return
  fi
  if [[ $DB == mysql && -e /etc/apparmor.d/usr.sbin.mysqld ]]; then
    # The AppArmor profile allows the program at this path only the distribution's folders. A copy is not confined.
    if [[ ! $dist/mysqld -nt $program ]]; then
      cp -L "$program" "$dist/mysqld.$BASHPID"
      mv -f "$dist/mysqld.$BASHPID" "$dist/mysqld"
    fi
    printf '%s\n' "$dist/mysqld" --no-defaults --basedir=/usr
  else
    printf '%s\n' "$program" --no-defaults
  fi
  [[ $DB == mariadb ]] || printf '%s\n' --mysqlx=OFF --secure-file-priv=NULL
  ((EUID)) || echo --user=root
}

spec_mysql() { # PART
  local part=$1 name value
  [[ $MYSQL_USER$MYSQL_PASSWORD != *[\'\"\\]* ]] || die "MYSQL_USER and MYSQL_PASSWORD may not hold quotes or backslashes"
  server_command
  printf '%s\n' "--datadir=$(data_of "$part")" "--port=$(port_of "$part")" --bind-address=127.0.0.1 --socket= \
    "--pid-file=$run_tmp/$part.pid" "--init-file=$conf/$part.sql" "--server-id=$(port_of "$part")" \
    "--ssl-ca=$tls/ca.pem" "--ssl-cert=$tls/$part.pem" "--ssl-key=$tls/server.key"
  while read -r name value; do printf -- '--%s=%s\n' "$name" "$value"; done < <(server_settings MYSQL_CFG_ -)
  echo "# user $MYSQL_USER $MYSQL_PASSWORD"
}

write_users() { # run by the server at each start, before it listens
  local host
  for host in 127.0.0.1 localhost; do
    cat <<END
CREATE USER IF NOT EXISTS '$MYSQL_USER'@'$host' IDENTIFIED BY '$MYSQL_PASSWORD';
ALTER USER '$MYSQL_USER'@'$host' IDENTIFIED BY '$MYSQL_PASSWORD';
GRANT ALL ON *.* TO '$MYSQL_USER'@'$host' WITH GRANT OPTION;
END
  done
}

initialise_mysql() { # PART: made beside its place and moved, so that half of one is never taken for whole
  local folder words as_root=()
  folder=$(data_of "$1")
  [[ ! -d $folder ]] || return 0
  tell "$1" "initialising its data folder"
  rm -rf "$folder.new"
  mapfile -t words < <(server_command)
  ((EUID)) || as_root=(--user=root)
  if [[ $DB == mariadb ]]; then
    words=(mariadb-install-db --no-defaults "${as_root[@]}" --auth-root-authentication-method=socket --skip-test-db)
  else
    words+=(--initialize-insecure --performance-schema=OFF)
  fi
  "${words[@]}" "--datadir=$folder.new" >"$logs/$1-initialise.log" 2>&1 ||
    { tail -n 15 "$logs/$1-initialise.log" >&2 && return 1; }
  mv "$folder.new" "$folder"
}

start_mysql() { # PART
  local part=$1 words
  initialise_mysql "$part"
  write_users >"$conf/$part.sql"
  (
    umask 077
    printf '[client]\nprotocol=TCP\nhost=127.0.0.1\nport=%s\nuser=%s\npassword="%s"\n' \
      "$(port_of "$part")" "$MYSQL_USER" "$MYSQL_PASSWORD" >"$conf/$part.cnf"
  )
  tell "$part" "starting"
  mapfile -t words < <(grep -v '^#' "$conf/$part")
  launch "$part" "${words[@]}"
}

health_mysql() { # PART: its version, when our user gets in over TCP and it serves our data folder
  local client answer
  client=$(find_client) || return 1
  answer=$(timeout 3 "$client" "--defaults-file=$conf/$1.cnf" --connect-timeout=2 -N -B -e 'SELECT @@datadir, @@version' 2>/dev/null) || return 1
  [[ $answer == "$(data_of "$1")/"$'\t'* ]] || return 1
  case $DB in
    mysql) echo "MySQL ${answer#*$'\t'}" ;;
    mariadb) echo "MariaDB ${answer#*$'\t'}" ;;
  esac
}
