# Shared by the scripts in dev/: where things live, free ports, installing what is missing.
# Sourced, never run. Everything that is downloaded or written lies under $OUTBOXD_DEV_DIR.

set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Not below the checkout: PostgreSQL runs as another user, who must be able to reach its files.
DEV_DIR=${OUTBOXD_DEV_DIR:-/tmp/outboxd-dev-$(id -u)}
KAFKA_VERSION=${KAFKA_VERSION:-4.3.0}
KAFKA_LIBS=$DEV_DIR/kafka-$KAFKA_VERSION/libs
# Made by kafka_install; tests/it looks for it there.
KAFKA_ARCHIVE=$DEV_DIR/kafka-$KAFKA_VERSION/classes.jsa

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# free_port: a loopback port that nothing listens on now. The kernel's ephemeral range is left
# out, so that no outgoing connection can take the port between now and the server's bind.
free_port() {
  local port
  for _ in $(seq 200); do
    port=$((10000 + RANDOM % 20000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  die "found no free port on 127.0.0.1"
}

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || die "$what did not answer in time"
    sleep 0.1
  done
}

port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# kill_server DIRECTORY: the one whose pid is in DIRECTORY/pid.
kill_server() {
  local pid
  pid=$(cat "$1/pid" 2>/dev/null) || return 0
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$1/pid"
}

# apt_install PACKAGE...: as root only; says what is missing otherwise.
apt_install() {
  command -v apt-get >/dev/null || die "please install: $*"
  [ "$(id -u)" = 0 ] || die "please install as root: apt-get install $*"
  say "installing $* ..."
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
    { apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
}

# debian_unpack PACKAGE DIRECTORY FILE: Debian's, unpacked and not installed, unless FILE is there: no service
# of the system starts.
debian_unpack() {
  local package=$1 dir=$2 file=$3 work
  [ -x "$dir/$file" ] && return
  command -v dpkg-deb >/dev/null || die "please install: $package"
  say "fetching $package ..."
  mkdir -p "$DEV_DIR"
  work=$(mktemp -d "$DEV_DIR/fetch.XXXXXX")
  (cd "$work" && { apt_quietly download "$package" || { apt_quietly update && apt_quietly download "$package"; }; } >&2)
  unpack_into "$work" "$package" "$dir" "$file"
}

# unpack_into WORK PACKAGE DIRECTORY FILE: what was fetched into WORK, which is removed.
unpack_into() {
  mkdir "$1/tree"
  dpkg-deb -x "$1/$2"_*.deb "$1/tree"
  mv -T "$1/tree" "$3" 2>/dev/null || [ -x "$3/$4" ]
  rm -rf "$1"
}

# debian_unpack_backport PACKAGE DIRECTORY FILE: the same from the backports of this Debian, which the system goes on
# without.
debian_unpack_backport() {
  local package=$1 dir=$2 file=$3 work
  [ -x "$dir/$file" ] && return
  command -v apt-get >/dev/null || die "please install: $package"
  say "fetching $package ..."
  mkdir -p "$DEV_DIR"
  work=$(mktemp -d "$DEV_DIR/fetch.XXXXXX")
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  local debian from
  debian=$(. /etc/os-release && echo "$VERSION_CODENAME")
  from=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk -v name="$debian" '$2 == name { print $1; exit }')
  echo "deb ${from:?no source of Debian $debian is known} $debian-backports main" >"$work/sources.list"
  local apt=(-o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache")
  (cd "$work" && apt_quietly "${apt[@]}" update && apt_quietly "${apt[@]}" download "$package") >&2
  unpack_into "$work" "$package" "$dir" "$file"
}

# As who asks: the user that apt takes otherwise may not write where we do.
apt_quietly() { apt-get -qq -o APT::Sandbox::User="$(id -un)" "$@"; }

# build_tools: what cargo needs here.
build_tools() {
  command -v cargo >/dev/null || die "please install Rust (rustup)"
  local tool
  # librdkafka and OpenSSL are built from source.
  for tool in cc make perl; do
    command -v "$tool" >/dev/null || { apt_install build-essential perl; return; }
  done
}

# maven_fetch GROUP:ARTIFACT:VERSION DIRECTORY: one jar from Maven Central.
maven_fetch() {
  command -v mvn >/dev/null || apt_install maven
  mvn -q -B dependency:copy -Dartifact="$1" -DoutputDirectory="$2"
}

# python_packages DIRECTORY PACKAGE...: a new environment of Python's own with them.
python_packages() {
  local home=$1
  shift
  python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3 python3-venv
  mkdir -p "$DEV_DIR"
  rm -rf "$home"
  python3 -m venv "$home" >&2 &&
    "$home/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2
}
