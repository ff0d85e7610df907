#!/bin/sh
# Installs the browser that the tests of reports drive: Debian's Chromium with its driver.  Running it again costs nothing.
set -eu

if command -v chromium > /dev/null && command -v chromedriver > /dev/null; then
    echo "chromium: there already"
else
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver > /dev/null
    echo "chromium: installed"
fi
