# shellcheck shell=bash
# Installs what is missing by apt when root runs it. Otherwise it says exactly what to install.

has() { command -v "$1" >/dev/null; }

apt_has() { # PACKAGE: apt could install it
  local policy
  has apt-cache || return 1
  if ((EUID == 0)) && ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
    say "fetching the package lists"
    apt-get update >"$logs/apt.log" 2>&1 || true
  fi
  policy=$(LC_ALL=C apt-cache policy "$1" 2>/dev/null)
  [[ $policy == *"Candidate: "[^\(]* ]]
}

first_apt_has() { # PACKAGE…: the first that apt could install, or the first
  local package
  for package; do
    if apt_has "$package"; then
      echo "$package"
      return
    fi
  done
  echo "$1"
}

apt_install() { # PACKAGE…
  if ((EUID)) || ! has apt-get; then
    die "missing: $*; install with: sudo apt-get install --no-install-recommends $*"
  fi
  say "installing with apt: $*"
  if ! apt_without_services "$@" >"$logs/apt.log" 2>&1; then
    tail -n 15 "$logs/apt.log" >&2
    die "apt could not install: $* (whole output in $logs/apt.log)"
  fi
}

apt_without_services() ( # PACKAGE…: a package of a server must not start one of its own
  export DEBIAN_FRONTEND=noninteractive
  local policy=/usr/sbin/policy-rc.d options=(-y -o DPkg::Lock::Timeout=300 --no-install-recommends)
  if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  apt-get install "${options[@]}" "$@" || { apt-get update && apt-get install "${options[@]}" "$@"; }
)

# Stripe's own mock of its API, which checks the shape of requests. It is built by Go, whose proxy has it.
stripe_mock_version=v0.203.0

install_stripe_mock() {
  local folder=$dist/go go=go
  [[ ! -x $folder/stripe-mock-$stripe_mock_version ]] || return 0
  has go || go=/usr/local/go/bin/go
  [[ $go == go || -x $go ]] || die "missing: go, version 1.24 or later, which builds stripe-mock"
  say "building stripe-mock $stripe_mock_version"
  mkdir -p "$folder"
  if ! GOBIN=$folder "$go" install "github.com/stripe/stripe-mock@$stripe_mock_version" >"$logs/go.log" 2>&1; then
    tail -n 15 "$logs/go.log" >&2
    die "go could not build stripe-mock (whole output in $logs/go.log)"
  fi
  ln -sf stripe-mock "$folder/stripe-mock-$stripe_mock_version"
}

# The OpenTelemetry Collector with what tests need of it, made by its own builder.
otelcol_version=v0.165.0

install_otelcol() {
  local folder=$dist/otelcol-$otelcol_version go=go
  if [[ ! -x $folder/otelcol ]]; then
    has go || go=/usr/local/go/bin/go
    [[ $go == go || -x $go ]] || die "missing: go, version 1.24 or later, which builds the OpenTelemetry Collector"
    say "building the OpenTelemetry Collector $otelcol_version (minutes, once)"
    mkdir -p "$folder"
    cat >"$folder/manifest.yaml" <<END
dist: { name: otelcol, output_path: $folder/source }
receivers: [{ gomod: go.opentelemetry.io/collector/receiver/otlpreceiver $otelcol_version }]
exporters: [{ gomod: go.opentelemetry.io/collector/exporter/debugexporter $otelcol_version }]
END
    if ! {
      GOBIN=$folder "$go" install "go.opentelemetry.io/collector/cmd/builder@$otelcol_version" &&
        PATH=$(dirname "$(command -v "$go")"):$PATH "$folder/builder" --config "$folder/manifest.yaml" &&
        mv "$folder/source/otelcol" "$folder/otelcol"
    } >"$logs/otelcol.log" 2>&1; then
      tail -n 15 "$logs/otelcol.log" >&2
      die "go could not build the OpenTelemetry Collector (whole output in $logs/otelcol.log)"
    fi
    rm -rf "$folder/source" "$folder/builder"
  fi
  ln -sfn "otelcol-$otelcol_version" "$dist/otelcol"
}

# Calls every operation of a contract with requests that it makes of the contract. It is a Python program.
schemathesis_version=4.32.0

install_schemathesis() {
  local folder=$dist/schemathesis-$schemathesis_version
  if [[ ! -x $folder/bin/schemathesis ]]; then
    python3 -c 'import venv, ensurepip' 2>/dev/null || apt_install python3-venv
    say "installing schemathesis $schemathesis_version"
    rm -rf "$folder"
    python3 -m venv "$folder" || die "python3 could not make $folder"
    if ! "$folder/bin/pip" install --quiet "schemathesis==$schemathesis_version" >"$logs/pip.log" 2>&1; then
      tail -n 15 "$logs/pip.log" >&2
      rm -rf "$folder"
      die "pip could not install schemathesis (whole output in $logs/pip.log)"
    fi
  fi
  ln -sfn "schemathesis-$schemathesis_version" "$dist/schemathesis"
}

# The packages of tests/web, each of the version that its lock file names.
install_web_tests() {
  local sources=$here/../tests/web lock folder
  lock=$(sha256sum "$sources/package-lock.json")
  folder=$dist/web-${lock::16}
  { has node && has npm; } || apt_install nodejs npm
  if [[ ! -e $folder/installed ]]; then
    say "installing the packages of tests/web"
    rm -rf "$folder"
    mkdir -p "$folder"
    cp "$sources"/package.json "$sources"/package-lock.json "$sources"/.npmrc "$folder"
    if ! npm ci --prefix "$folder" >"$logs/npm.log" 2>&1; then
      tail -n 15 "$logs/npm.log" >&2
      die "npm could not install the packages (whole output in $logs/npm.log)"
    fi
    touch "$folder/installed"
  fi
  ln -sfn "web-${lock::16}" "$dist/web"
}

install_programs() { # PROGRAM…: those that are missing; most are packages of their name
  (($#)) || die_usage "install which program?"
  local program packages=()
  mkdir -p "$logs"
  for program; do
    case $program in
      stripe-mock) install_stripe_mock ;;
      schemathesis) install_schemathesis ;;
      otelcol) install_otelcol ;;
      alertmanager) has prometheus-alertmanager || packages+=(prometheus-alertmanager) ;;
      web-tests) install_web_tests ;;
      openssl-headers) [[ -e /usr/include/openssl/ssl.h ]] && has pkg-config || packages+=(libssl-dev pkg-config) ;;
      chromium)
        has chromium || packages+=(chromium)
        # Without it pages in Chinese show boxes.
        [[ -d /usr/share/fonts/truetype/wqy ]] || packages+=(fonts-wqy-zenhei)
        ;;
      *) has "$program" || [[ -x /usr/sbin/$program ]] || packages+=("$program") ;;
    esac
  done
  ((${#packages[@]} == 0)) || apt_install "${packages[@]}"
}

install_missing() { # PART…: everything that these need; settles DB
  local packages=() fetching=
  if [[ " $* " == *" redis "* ]]; then
    { has redis-server && has redis-cli; } || packages+=(redis-server)
  fi
  if [[ " $* " == *" kafka "* ]]; then
    find_java >/dev/null || packages+=("$(first_apt_has openjdk-17-jre-headless openjdk-21-jre-headless default-jre-headless)")
    [[ -d $(kafka_libs) ]] || has mvn || packages+=(maven)
  fi
  if [[ " $* " == *" mysql-"* ]]; then mapfile -t -O "${#packages[@]}" packages < <(database_packages); fi
  has openssl || packages+=(openssl)
  ((${#packages[@]} == 0)) || apt_install "${packages[@]}"

  if [[ " $* " == *" kafka "* ]]; then
    fetch_kafka &
    fetching=$!
  fi
  if [[ " $* " == *" mysql-"* ]]; then settle_database; fi
  [[ -z $fetching ]] || wait "$fetching" || die "no Kafka"
}
