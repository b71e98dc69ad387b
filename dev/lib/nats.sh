# NATS with JetStream: Debian's, or a newer one from the Go proxy. Sourced after common.sh.

# nats_install: prints the path of nats-server; of version $NATS_VERSION (as 2.12.1) if that is set.
nats_install() {
  local found dir
  if [ -n "${NATS_VERSION:-}" ]; then
    dir=$DEV_DIR/nats-$NATS_VERSION
    if [ ! -x "$dir/nats-server" ]; then
      command -v go >/dev/null || die "please install Go, to build NATS $NATS_VERSION"
      say "building NATS $NATS_VERSION ..."
      GOBIN=$dir GOFLAGS=-trimpath go install "github.com/nats-io/nats-server/v2@v$NATS_VERSION" >&2
    fi
    echo "$dir/nats-server"
    return
  fi
  found=$(command -v nats-server || true)
  if [ -z "$found" ]; then
    debian_unpack nats-server "$DEV_DIR/nats" usr/sbin/nats-server
    found=$DEV_DIR/nats/usr/sbin/nats-server
  fi
  echo "$found"
}

# nats_start DIRECTORY BIN PORT: in the background; its pid is in DIRECTORY/pid.
nats_start() {
  local dir=$1 bin=$2 port=$3
  mkdir -p "$dir"
  nats_configure "$dir" "$port" "sync_interval: always"
  # Debian's knows no such setting: it synchronises by itself, every two minutes.
  "$bin" -t -c "$dir/nats.conf" >/dev/null 2>&1 || nats_configure "$dir" "$port" ""
  (exec setsid "$bin" -c "$dir/nats.conf" >>"$dir/nats.log" 2>&1 </dev/null) &
  echo $! >"$dir/pid"
  wait_for 20 NATS grep -q 'Server is ready' "$dir/nats.log"
}

# nats_configure DIRECTORY PORT SETTING: its file, with this setting for the storage.
nats_configure() {
  cat >"$1/nats.conf" <<CONF
listen: 127.0.0.1:$2
jetstream {
  store_dir: "$1/data"
  $3
}
CONF
}
