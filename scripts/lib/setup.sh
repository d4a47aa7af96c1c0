# Set-up shared by scripts/up and scripts/test. Source it with the repository root as working directory.
# Functions end with a status other than 0, after saying what to do, when they cannot do their job.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }

# setup_python: sets `python` to an interpreter that is new enough ($ARMITAGE_PYTHON goes first).
setup_python() {
  local candidate
  for candidate in ${ARMITAGE_PYTHON:+"$ARMITAGE_PYTHON"} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$(command -v "$candidate")
      return 0
    fi
  done
  say "Python 3.11 or newer is needed and was not found; on Debian 12: apt-get install python3"
  return 1
}

# setup_debian PACKAGE...: installs Debian packages that are missing when root; else lists them and fails.
setup_debian() {
  local package missing=()
  for package in "$@"; do
    if [[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) != "install ok installed" ]]; then
      missing+=("$package")
    fi
  done
  ((${#missing[@]})) || return 0
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    say "Missing Debian packages; as root: apt-get install ${missing[*]}"
    return 1
  fi
  say "Installing ${missing[*]} ..."
  if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1; then
    # The package lists may be absent or old; only then is fetching them worth the time.
    apt-get update -qq >&2 &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 || {
      say "apt-get could not install: ${missing[*]}"
      return 1
    }
  fi
}

# setup_tools PACKAGE...: installs Debian packages, and what the launcher and the compiled modules are made with where it is missing.
setup_tools() {
  local headers tools=()
  setup_python || return 1
  command -v cc >/dev/null || tools=(gcc libc6-dev)
  headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  # Another Python than Debian's brings its own, or has none that Debian could give.
  [[ -e $headers/Python.h || $headers != /usr/include/* ]] || tools+=(libpython3-dev)
  setup_debian "$@" ${tools[@]+"${tools[@]}"}
}

# setup_venv runtime|dev: makes .venv hold exactly what scripts/lock says, and this checkout, editable, with its sandbox launcher and
# compiled modules. Warm (nothing changed since) it costs a hash of some files.
setup_venv() {
  local wanted=$1 stamp
  setup_python || return 1
  mkdir -p .cache
  exec {setup_lock}>.cache/setup.lock
  flock "$setup_lock"
  if ! _setup_is_current "$wanted"; then
    _setup_make_venv && _setup_install "$wanted" || {
      exec {setup_lock}>&-
      return 1
    }
    stamp=$(_setup_stamp "$wanted")
    printf '%s\n' "$stamp" >".venv/armitage-$wanted.stamp"
  fi
  # Editing a module asks for no new installation, but for a new compilation.
  .venv/bin/python hatch_modules.py || say "The modules above run as Python, and small calls take up to three times the CPU."
  exec {setup_lock}>&-
}

# What the virtual environment depends on; the directory is in it because .venv does not survive a move.
_setup_stamp() {
  { pwd -P; "$python" -V; cat pyproject.toml hatch_build.py hatch_modules.py executor/launcher/*.[ch] scripts/lock/build.txt "scripts/lock/$1.txt"; } | sha256sum | cut -d' ' -f1
}

_setup_is_current() {
  local kind
  [[ -x .venv/bin/armitage ]] || return 1
  for kind in "$1" dev; do # dev holds all of runtime.
    if [[ $(cat ".venv/armitage-$kind.stamp" 2>/dev/null) == "$(_setup_stamp "$kind")" ]]; then
      return 0
    fi
  done
  return 1
}

_setup_make_venv() {
  if [[ -x .venv/bin/python && -x .venv/bin/pip ]] && .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    return 0
  fi
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian keeps ensurepip in a package of its own.
    setup_debian python3-venv || return 1
  fi
  say "Making .venv with $("$python" -V) ..."
  rm -rf .venv
  "$python" -m venv .venv
}

_setup_install() {
  local pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
  say "Installing the locked Python packages ..."
  rm -f .venv/armitage-*.stamp
  _setup_packages scripts/lock/build.txt "scripts/lock/$1.txt" >&2 &&
    "${pip[@]}" install --no-deps --no-build-isolation --editable . >&2 || {
    say "pip could not install what scripts/lock says; the lines above say why"
    return 1
  }
}

# _setup_packages LOCK...: by uv where the last of them pins it, which takes a fifth of pip's CPU time; else by pip.
_setup_packages() {
  local uv lock locks=()
  for lock in "$@"; do locks+=(-r "$lock"); done
  uv=$(sed -n '/^uv==/,/[^\\]$/p' "$lock")
  if [[ $uv ]]; then
    "${pip[@]}" install --no-deps --require-hashes -r /dev/stdin <<<"$uv" &&
      .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes "${locks[@]}" && return
    say "uv, which reads none of pip's settings, could not install them; trying with pip ..."
  fi
  "${pip[@]}" install --require-hashes "${locks[@]}"
}
