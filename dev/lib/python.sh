# Python for the consumer of docs/CONSUMERS.md, which a test runs. Sourced after common.sh.

# python_install: its packages, in an environment of their own; prints the interpreter.
python_install() {
  local home=$DEV_DIR/python packages=$REPO/testdata/consumers/requirements.txt
  if ! cmp -s "$packages" "$home/.complete"; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3 python3-venv
    say "fetching the Python consumer's packages ..."
    mkdir -p "$DEV_DIR"
    rm -rf "$home"
    python3 -m venv "$home" >&2
    "$home/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$packages" >&2
    cp "$packages" "$home/.complete"
  fi
  echo "$home/bin/python"
}
