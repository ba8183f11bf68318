# Shared by the scripts beside it: where we are, how we speak, what this machine is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python

say() { printf '%s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Debian or Ubuntu, and allowed to install: only then is anything installed on the machine.
may_install() { [ "$(id -u)" = 0 ] && have apt-get; }

install_packages() {
    say "installing: $*"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
