# Python for the consumer of docs/CONSUMERS.md and for tools that check deployments, which tests run. Sourced
# after common.sh.

# python_install: its packages, in an environment of their own; prints the interpreter.
python_install() {
  local home=$DEV_DIR/python
  local packages=("$REPO/testdata/consumers/requirements.txt" "$REPO/testdata/deploy/requirements.txt")
  if ! cmp -s <(cat "${packages[@]}") "$home/.complete"; then
    say "fetching the tests' Python packages ..."
    python_packages "$home" "${packages[@]/#/--requirement=}" || return
    cat "${packages[@]}" >"$home/.complete"
  fi
  echo "$home/bin/python"
}
