# PostgreSQL: find or fetch the binaries, run servers as an unprivileged user.

# The user that servers run as: PostgreSQL refuses to run as root.
pg_user() {
  if [ "$(id -u)" != 0 ]; then
    id -un
    return
  fi
  id postgres >/dev/null 2>&1 || useradd --system --create-home --shell /bin/sh postgres
  echo postgres
}

as_pg() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid="$(pg_user)" --regid="$(id -gn "$(pg_user)")" --init-groups env HOME=/tmp "$@"
  else
    "$@"
  fi
}

# pg_bin [MAJOR]: the directory of initdb, pg_ctl and postgres. Without MAJOR any that is
# installed, else Debian's; with MAJOR that one, from Maven Central where Debian has another.
pg_bin() {
  local major=${1:-} dir
  for dir in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV); do
    if [ -x "$dir/initdb" ] && { [ -z "$major" ] || [ "$dir" = "/usr/lib/postgresql/$major/bin" ]; }; then
      echo "$dir"
      return
    fi
  done
  if [ -z "$major" ]; then
    # Debian's package would start a cluster of its own; nothing here wants it.
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
      echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    apt_install postgresql postgresql-client
    dir=$(ls -d /usr/lib/postgresql/*/bin | sort -rV | head -n 1)
    [ -x "$dir/initdb" ] || die "PostgreSQL was installed but initdb is not in $dir"
    echo "$dir"
    return
  fi
  pg_fetch "$major"
}

# pg_fetch MAJOR: server binaries (no psql) from Maven Central, unpacked once.
pg_fetch() {
  local major=$1 version arch dir
  case $major in
    14) version=14.20.0 ;; 15) version=15.15.0 ;; 16) version=16.11.0 ;;
    17) version=17.7.0 ;; 18) version=18.1.0 ;;
    *) die "no binaries known for PostgreSQL $major; one of 14, 15, 16, 17, 18" ;;
  esac
  case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64v8 ;; *) die "no binaries for $(uname -m)" ;; esac
  dir=$DEV_DIR/postgres-$version
  if [ ! -x "$dir/bin/initdb" ]; then
    say "fetching PostgreSQL $version ..."
    local work
    work=$(mktemp -d "$DEV_DIR/fetch.XXXXXX")
    maven_fetch "io.zonky.test.postgres:embedded-postgres-binaries-linux-$arch:$version" "$work" >&2
    (cd "$work" && unpack_jar ./*.jar && mkdir tree && tar -xJf ./*.txz -C tree)
    chmod 755 "$work/tree"
    mv -T "$work/tree" "$dir" 2>/dev/null || [ -x "$dir/bin/initdb" ]
    rm -rf "$work"
  fi
  echo "$dir/bin"
}

unpack_jar() {
  if command -v unzip >/dev/null; then unzip -q "$1"; else jar xf "$1"; fi
}

# psql_bin: any psql will do for any server.
psql_bin() {
  command -v psql || { ls /usr/lib/postgresql/*/bin/psql 2>/dev/null | tail -n 1; }
}

# pg_start DIRECTORY BIN PORT: initdb on the first start, then a server with logical decoding.
pg_start() {
  local dir=$1 bin=$2 port=$3
  if [ ! -e "$dir/data/PG_VERSION" ]; then
    mkdir -p "$dir"
    [ "$(id -u)" != 0 ] || chown "$(pg_user)" "$dir"
    as_pg "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$dir/initdb.log" 2>&1 ||
      { cat "$dir/initdb.log" >&2; die "initdb failed"; }
    as_pg tee -a "$dir/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir'
wal_level = logical
max_wal_senders = 50
max_replication_slots = 50
max_connections = 200
max_prepared_transactions = 10
shared_buffers = 256MB
max_wal_size = 4GB
max_slot_wal_keep_size = 16GB
fsync = ${PG_FSYNC:-on}
log_line_prefix = '%m [%p] %a '
CONF
  fi
  as_pg "$bin/pg_ctl" -D "$dir/data" -o "-p $port" -l "$dir/postgres.log" -w -t 60 start >/dev/null ||
    { tail -n 20 "$dir/postgres.log" >&2; die "PostgreSQL did not start"; }
}

pg_stop() {
  local dir=$1 bin=$2
  as_pg "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
}
