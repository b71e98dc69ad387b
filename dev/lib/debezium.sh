# The real Debezium from Maven Central: the connector for Kafka Connect, and Debezium Server.

DEBEZIUM_VERSION=${DEBEZIUM_VERSION:-3.6.3.Final}
DEBEZIUM_DIR=$DEV_DIR/debezium-$DEBEZIUM_VERSION
# What plugin.path of a Connect worker names.
DEBEZIUM_PLUGINS=$DEBEZIUM_DIR/plugins

# debezium_unpack ARTIFACT DIRECTORY: a tarball from Maven Central, all of it or nothing.
debezium_unpack() {
  local artifact=$1 directory=$2 work
  [ -e "$directory" ] && return
  say "fetching ${artifact#*:} ..."
  mkdir -p "$DEBEZIUM_DIR"
  work=$(mktemp -d "$DEBEZIUM_DIR/fetch.XXXXXX")
  maven_fetch "$artifact" "$work" >&2
  mkdir "$work/unpacked"
  tar -xzf "$work"/*.tar.gz -C "$work/unpacked"
  mv -T "$work/unpacked" "$directory" 2>/dev/null || [ -e "$directory" ]
  rm -rf "$work"
}

debezium_connect_install() {
  debezium_unpack "io.debezium:debezium-connector-postgres:$DEBEZIUM_VERSION:tar.gz:plugin" \
    "$DEBEZIUM_PLUGINS"
}

# About 700 MB: only the golden records need it.
debezium_server_install() {
  debezium_unpack "io.debezium:debezium-server-dist:$DEBEZIUM_VERSION:tar.gz" \
    "$DEBEZIUM_DIR/server"
  DEBEZIUM_SERVER=$DEBEZIUM_DIR/server/debezium-server
}

# java_of_at_least MAJOR: prints the path of such a java.
java_of_at_least() {
  local java major
  for java in "${JAVA_HOME:-/nonexistent}/bin/java" "$(command -v java || true)" \
    /usr/lib/jvm/*/bin/java; do
    [ -x "$java" ] || continue
    major=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge "$1" ] && { echo "$java"; return; }
  done
  die "Debezium Server needs Java $1 or newer: please install one and set JAVA_HOME, or put it below /usr/lib/jvm"
}
