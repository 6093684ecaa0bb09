# shellcheck shell=bash
# Kafka. One process is broker and controller. Its specification is its properties file.

spec_kafka() {
  local name value secured=TLS://127.0.0.1:$KAFKA_TLS_PORT jaas=org.apache.kafka.common.security
  secured+=,EXPIRED://127.0.0.1:$KAFKA_EXPIRED_PORT,SASL://127.0.0.1:$KAFKA_SASL_PORT
  cat <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$KAFKA_CONTROLLER_PORT
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT,CONTROLLER://127.0.0.1:$KAFKA_CONTROLLER_PORT,$secured
advertised.listeners=PLAINTEXT://127.0.0.1:${KAFKA_ADVERTISED_PORT:-$KAFKA_PORT},$secured
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,EXPIRED:SSL,SASL:SASL_SSL
log.dirs=$data/kafka
ssl.keystore.type=PEM
ssl.keystore.location=$tls/server-and-key.pem
ssl.truststore.type=PEM
ssl.truststore.location=$tls/ca.pem
listener.name.tls.ssl.client.auth=required
listener.name.expired.ssl.keystore.location=$tls/expired-and-key.pem
listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config=$jaas.plain.PlainLoginModule required user_$MYSQL_USER="$MYSQL_PASSWORD";
listener.name.sasl.scram-sha-256.sasl.jaas.config=$jaas.scram.ScramLoginModule required;
listener.name.sasl.scram-sha-512.sasl.jaas.config=$jaas.scram.ScramLoginModule required;
END
  while read -r name value; do printf '%s=%s\n' "$name" "$value"; done < <(server_settings KAFKA_CFG_ .)
}

kafka_libs() { echo "$dist/kafka-$KAFKA_VERSION"; }

find_java() { # the first of 17 or newer
  local java version
  for java in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java)" /usr/lib/jvm/*/bin/java; do
    version=$("$java" -version 2>&1 | sed -n 's/^[a-z]* version "\([0-9]*\).*/\1/p') || continue
    ((${version:-0} < 17)) || { echo "$java" && return; }
  done
  return 1
}

fetch_kafka() {
  local libs
  libs=$(kafka_libs)
  [[ ! -d $libs ]] || return 0
  tell kafka "fetching Kafka $KAFKA_VERSION with Maven, 44 MB"
  rm -rf "$libs.new"
  mvn -q -B -f "$here/kafka/pom.xml" "-Dkafka.version=$KAFKA_VERSION" dependency:copy-dependencies \
    -DincludeScope=runtime "-DoutputDirectory=$libs.new" >"$logs/maven.log" 2>&1 ||
    { tail -n 15 "$logs/maven.log" >&2 && tell kafka "Maven failed, see $logs/maven.log" && return 1; }
  mv "$libs.new" "$libs"
}

start_kafka() {
  local java libs cluster
  require_free_port kafka KAFKA_CONTROLLER_PORT
  java=$(find_java)
  libs=$(kafka_libs)
  if [[ ! -e $data/kafka/meta.properties ]]; then
    tell kafka "formatting its data folder"
    rm -rf "$data/kafka" # without that file whatever is there is half a format
    # An id may not begin with a dash.
    cluster=s$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c 1-20)g
    "$java" -XX:TieredStopAtLevel=1 -Dorg.apache.logging.log4j.level=WARN -cp "$libs/*" \
      kafka.tools.StorageTool format --ignore-formatted -t "$cluster" -c "$conf/kafka" \
      --add-scram "SCRAM-SHA-256=[name=$MYSQL_USER,password=$MYSQL_PASSWORD]" \
      --add-scram "SCRAM-SHA-512=[name=$MYSQL_USER,password=$MYSQL_PASSWORD]" >"$logs/kafka-format.log" 2>&1 ||
      { cat "$logs/kafka-format.log" >&2 && return 1; }
    touch "$data/kafka-has-users"
  fi
  [[ -e $data/kafka-has-users ]] ||
    tell kafka "its data folder is from before it had users: for SASL, scripts/stack down && rm -r $data"
  tell kafka "starting"
  launch kafka "$java" "-Xms$KAFKA_HEAP" "-Xmx$KAFKA_HEAP" -XX:+UseSerialGC \
    "-XX:TieredStopAtLevel=$KAFKA_JVM_LEVEL" -XX:+ExitOnOutOfMemoryError \
    "-Djava.io.tmpdir=$run_tmp" -Dorg.apache.logging.log4j.level=WARN -cp "$libs/*" kafka.Kafka "$conf/kafka"
}

hex() { od -An -v -tx1 | tr -d ' \n'; }

# Prints the broker's version when a Metadata request (key 3, version 2, no topics) names one live broker and our
# cluster.
health_kafka() {
  local cluster answer
  cluster=$(sed -n 's/^cluster.id=//p' "$data/kafka/meta.properties" 2>/dev/null) && [[ -n $cluster ]] || return 1
  answer=$(
    exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$KAFKA_PORT" || exit 1
    printf '\0\0\0\016\0\003\0\002\0\0\0\052\377\377\0\0\0\0' >&3
    timeout 2 head -c 57 <&3 | hex
  ) || return 1
  # The answer has its length, our number 42, one broker, …, and the cluster's id.
  [[ $answer == ????????0000002a00000001*"$(printf %s "$cluster" | hex)"* ]] || return 1
  echo "Kafka $KAFKA_VERSION"
}
