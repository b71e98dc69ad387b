# Prometheus and promtool, Debian's, unpacked and not installed: no service of the system starts.
# Sourced after common.sh.

# prometheus_install: prints the directory of both binaries.
prometheus_install() {
  local found dir=$DEV_DIR/prometheus
  found=$(command -v prometheus || true)
  if [ -n "$found" ] && [ -x "${found%/*}/promtool" ]; then
    echo "${found%/*}"
    return
  fi
  debian_unpack prometheus "$dir" usr/bin/promtool
  echo "$dir/usr/bin"
}
