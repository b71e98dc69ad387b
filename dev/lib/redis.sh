# Redis, Debian's; and Valkey, which knows what Redis has since 7.2. Sourced after common.sh.

# redis_install: prints the path of redis-server.
redis_install() {
  local dir=$DEV_DIR/redis found
  found=$(command -v redis-server || true)
  if [ -z "$found" ]; then
    # The package redis-server would start a service of the system. The program itself is in redis-tools,
    # and is by its name what it is.
    if [ ! -x "$dir/redis-server" ]; then
      command -v redis-check-rdb >/dev/null || apt_install redis-tools
      mkdir -p "$dir"
      ln -sf "$(command -v redis-check-rdb)" "$dir/redis-server"
    fi
    found=$dir/redis-server
  fi
  "$found" --version | grep -q '^Redis server' || die "$found is no Redis server"
  echo "$found"
}

# valkey_install: prints the path of valkey-server, of Debian's backports.
valkey_install() {
  local dir=$DEV_DIR/valkey found
  found=$(command -v valkey-server || true)
  if [ -z "$found" ]; then
    # It is linked against what Redis needs, too, and is like it by its name what it is.
    redis_install >/dev/null
    debian_unpack_backport valkey-tools "$dir" usr/bin/valkey-check-rdb
    ln -sf usr/bin/valkey-check-rdb "$dir/valkey-server"
    found=$dir/valkey-server
  fi
  "$found" --version | grep -q '^Valkey server' || die "$found is no Valkey server"
  echo "$found"
}

# redis_start DIRECTORY BIN PORT: in the background; its pid is in DIRECTORY/pid. What it has answered is
# on disk, and nothing is evicted.
redis_start() {
  local dir=$1 bin=$2 port=$3
  mkdir -p "$dir/data"
  cat >"$dir/redis.conf" <<CONF
port $port
bind 127.0.0.1
dir "$dir/data"
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
CONF
  (exec setsid "$bin" "$dir/redis.conf" >>"$dir/redis.log" 2>&1 </dev/null) &
  echo $! >"$dir/pid"
  wait_for 20 Redis port_answers "$port"
}
