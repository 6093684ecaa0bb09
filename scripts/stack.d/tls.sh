# shellcheck shell=bash
# Certificates of an authority of our own, for servers on loopback. All of them are made once, and hold for ten years,
# but for those that tests need to be wrong.
#
#   ca.pem                              the authority
#   server.pem server.key               of a server at 127.0.0.1 or localhost
#   client.pem client.key               of a client
#   expired.pem elsewhere.pem           of servers: one that has ended, and one for another name (both with server.key)
#   server-and-key.pem expired-and-key.pem   these with their keys
#   other-ca.pem                        an authority that has signed nothing
#   mysql-a.pem mysql-b.pem             copies of server.pem, one for each instance

make_certificates() {
  [[ ! -e $tls/.complete ]] || return 0
  rm -rf "$tls"
  mkdir -p "$tls"
  # In the background, because on the left of `||` a step that fails would not end it.
  (
    set -e
    cd "$tls"
    umask 077
    authority ca "stack CA"
    authority other-ca "another CA"
    signed server "IP:127.0.0.1,DNS:localhost"
    signed client "DNS:client.example"
    cp server.key elsewhere.key
    signed elsewhere "DNS:elsewhere.example"
    cp server.key expired.key
    signed expired "IP:127.0.0.1,DNS:localhost" 20200101000000Z 20200201000000Z
    # Kafka and HAProxy read a key and its certificate from one file.
    for name in server expired; do cat server.key $name.pem >$name-and-key.pem; done
    cp server.pem mysql-a.pem
    cp server.pem mysql-b.pem
    touch .complete
  ) >"$logs/tls.log" 2>&1 &
  wait $! || { cat "$logs/tls.log" >&2 && die "no certificates"; }
}

curve=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)

authority() { # NAME SUBJECT
  openssl req -x509 "${curve[@]}" -keyout "$1.key" -out "$1.pem" -days 3650 -subj "/CN=$2"
}

signed() { # NAME ALTERNATIVE_NAMES [FROM TO]; uses NAME.key when it is there
  local name=$1 from=${3:-20200101000000Z} to=${4:-20351231000000Z} key=("${curve[@]}" -keyout "$1.key")
  [[ ! -e $name.key ]] || key=(-new -key "$name.key")
  openssl req "${key[@]}" -out "$name.csr" -subj "/CN=$name"
  : >index.txt
  mkdir -p new
  cat >"$name.cnf" <<END
[ca]
default_ca = stack
[stack]
database = index.txt
new_certs_dir = new
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = $2
extendedKeyUsage = serverAuth, clientAuth
END
  openssl ca -batch -notext -config "$name.cnf" -cert ca.pem -keyfile ca.key -startdate "$from" -enddate "$to" \
    -in "$name.csr" -out "$name.pem"
  rm -rf "$name.csr" "$name.cnf" index.txt* new
}
