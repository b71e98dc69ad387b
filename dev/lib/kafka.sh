# Apache Kafka from Maven Central, in KRaft mode: every node is broker and controller.

kafka_install() {
  command -v java >/dev/null || apt_install openjdk-17-jre-headless
  [ -e "$KAFKA_LIBS/.complete" ] || kafka_fetch
  [ -e "$KAFKA_ARCHIVE" ] || kafka_archive
}

kafka_fetch() {
  command -v mvn >/dev/null || apt_install maven
  say "fetching Apache Kafka $KAFKA_VERSION ..."
  local work
  work=$(mktemp -d "$DEV_DIR/fetch.XXXXXX")
  cat >"$work/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>dev</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
POM
  (cd "$work" && mvn -q -B dependency:copy-dependencies -DoutputDirectory=libs >&2)
  # Quiet: only what goes wrong, on standard output, which is the node's log file.
  cat >"$work/libs/log4j2.properties" <<'LOG'
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
LOG
  touch "$work/libs/.complete"
  mkdir -p "$(dirname "$KAFKA_LIBS")"
  mv -T "$work/libs" "$KAFKA_LIBS" 2>/dev/null || [ -e "$KAFKA_LIBS/.complete" ]
  rm -rf "$work"
}

# kafka_archive: keeps what Java makes of Kafka's classes when a node starts, so that all others need half as
# long: the tests start dozens. An archive that does not suit a Java, it leaves aside.
kafka_archive() {
  local work
  work=$(mktemp -d "$DEV_DIR/archive.XXXXXX")
  say "preparing Kafka's classes ..."
  kafka_configure "$work" 1 "$(free_port)" "$(free_port)"
  kafka_start "$work/node-1" -XX:TieredStopAtLevel=1 -XX:ArchiveClassesAtExit="$work/jsa"
  wait_for 60 "Kafka" grep -q 'Kafka Server started' "$work/node-1/kafka.log"
  kill "$(cat "$work/node-1/pid")"
  wait "$(cat "$work/node-1/pid")" || true
  [ ! -e "$work/jsa" ] || mv -T "$work/jsa" "$KAFKA_ARCHIVE"
  rm -rf "$work"
}

# kafka_java: Java with Kafka's classes, into the array of that name.
kafka_java() {
  kafka_java=(java -cp "$KAFKA_LIBS/*" -Dlog4j2.configurationFile="$KAFKA_LIBS/log4j2.properties")
  [ ! -e "$KAFKA_ARCHIVE" ] || kafka_java+=(-XX:SharedArchiveFile="$KAFKA_ARCHIVE")
}

# kafka_configure DIRECTORY BROKERS PORT...: properties of every node, storage formatted.
# PORTs: per node one for clients, one for controllers.
kafka_configure() {
  local dir=$1 brokers=$2 voters="" node isr
  shift 2
  local ports=("$@")
  for node in $(seq "$brokers"); do
    voters+="${voters:+,}$node@127.0.0.1:${ports[$((2 * node - 1))]}"
  done
  isr=$((brokers > 1 ? 2 : 1))
  kafka_java
  for node in $(seq "$brokers"); do
    local home=$dir/node-$node
    mkdir -p "$home"
    cat >"$home/server.properties" <<CONF
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:${ports[$((2 * node - 2))]},CONTROLLER://127.0.0.1:${ports[$((2 * node - 1))]}
advertised.listeners=PLAINTEXT://127.0.0.1:${ports[$((2 * node - 2))]}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$home/data
auto.create.topics.enable=false
default.replication.factor=$((brokers > 2 ? 3 : brokers))
min.insync.replicas=$isr
offsets.topic.replication.factor=$((brokers > 2 ? 3 : brokers))
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=$((brokers > 2 ? 3 : brokers))
transaction.state.log.min.isr=$isr
group.initial.rebalance.delay.ms=0
CONF
    "${kafka_java[@]}" kafka.tools.StorageTool format --ignore-formatted \
      -t MkU3OEVBNTcwNTJENDM2Qk -c "$home/server.properties" >"$home/format.log" 2>&1 ||
      { cat "$home/format.log" >&2; die "could not format Kafka's storage"; }
  done
}

# kafka_start NODE-DIRECTORY JAVA-OPTION...: in the background; its pid is in NODE-DIRECTORY/pid.
kafka_start() {
  local home=$1
  shift
  kafka_java
  (
    cd "$home"
    exec setsid "${kafka_java[@]}" -Xmx512m -Xms256m -XX:+UseG1GC "$@" \
      kafka.Kafka "$home/server.properties" >>"$home/kafka.log" 2>&1 </dev/null
  ) &
  echo $! >"$home/pid"
}
