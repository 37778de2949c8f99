#!/usr/bin/env bash
# Installs the browser for tests/browser from the system's packages. It never fails: without a browser these tests skip.
set -uo pipefail

found() { command -v "$1" >/dev/null; }

if { found chromium || found chromium-browser || found google-chrome; } && found chromedriver; then
  exit 0
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
  as_root=(sudo -n)
fi
if found apt-get && "${as_root[@]}" true 2>/dev/null; then
  echo "Installing Chromium for the tests of the web page"
  export DEBIAN_FRONTEND=noninteractive
  packages=(chromium chromium-driver fonts-dejavu-core)
  if { "${as_root[@]}" apt-get -qq update &&
    "${as_root[@]}" apt-get -qq install -y --no-install-recommends "${packages[@]}"; } >/dev/null; then
    exit 0
  fi
fi
echo "There is no browser, so the tests of the web page will be skipped. They need Chromium and chromedriver on the PATH;" >&2
echo "on Debian: apt-get install chromium chromium-driver" >&2
