# shellcheck shell=bash
# A Kubernetes cluster in network namespaces: sourced by tests/cluster/run.
#
# The control plane is in namespace pgc-lan, with a bridge as the nodes' network. A node is a
# process with network, mount and host name namespaces of its own, and folders of its own over
# those that containerd, kubelet and CNI plugins use; they vanish with the namespaces.

LAB=/var/tmp/podgate-cluster
LAN=pgc-lan
# Where podgate and podgate-cni were built.
PROGRAMS=${PODGATE_PROGRAMS:-$PWD/target/debug}
API=192.168.77.1
NODE_FOLDERS=(/etc/cni /opt /var/lib/kubelet /var/lib/containerd /var/lib/cni /run /var/log/pods
    /var/log/containers)
# What kubelet sets on the machine itself.
KUBELET_SYSCTLS=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops
    kernel.keys.root_maxkeys kernel.keys.root_maxbytes)

# Waits until a command succeeds, at most this many seconds.
await() {
    local seconds=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "$what: not within $seconds s"
        sleep 0.2
    done
}

fail() {
    # The cluster's view of it comes first, so that the reason is the last line.
    if [ -e $LAB/apiserver.pid ]; then
        kubectl get pods --all-namespaces -o wide
        kubectl get events --all-namespaces | tail -n 15
        kubectl -n kube-system logs -l app.kubernetes.io/name=podgate --all-containers --prefix \
            --tail=20
    fi >&2 || true
    tail -n 3 $LAB/*.log $LAB/n?/*.log >&2 || true
    echo "FAILED: $*" >&2
    exit 1
}

kubectl() {
    nsenter --net=/run/netns/$LAN /usr/bin/kubectl --kubeconfig $LAB/admin.kubeconfig "$@"
}

# Runs a command on a node.
on() {
    local node=$1
    shift
    nsenter -t "$(cat "$LAB/$node/holder.pid")" -n -m -u "$@"
}

# Starts a program, its log and process id in the folder of the lab.
start() {
    local name=$1
    shift
    setsid "$@" >"$LAB/$name.log" 2>&1 &
    echo $! >"$LAB/$name.pid"
    disown
}

stop() {
    local pid
    pid=$(cat "$LAB/$1.pid" 2>/dev/null) || return 0
    kill "${2--TERM}" "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    rm -f "$LAB/$1.pid"
}

make_network() {
    ip netns add $LAN
    ip -n $LAN link set lo up
    ip -n $LAN link add lan0 type bridge
    ip -n $LAN addr add $API/24 dev lan0
    ip -n $LAN link set lan0 up
}

make_certificates() (
    cd $LAB
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=podgate-cluster \
        -keyout ca.key -out ca.crt
    openssl genrsa -out accounts.key 2048
    openssl rsa -in accounts.key -pubout -out accounts.pub
    certificate api /CN=kube-apiserver \
        "subjectAltName=IP:$API,IP:10.96.0.1,DNS:kubernetes.default.svc"
    certificate kubelet-client /O=system:masters/CN=kubelet-client extendedKeyUsage=clientAuth
    echo 'lab-admin,admin,1,"system:masters"' >tokens.csv
    cat >admin.kubeconfig <<YAML
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "https://$API:6443", certificate-authority: $LAB/ca.crt}}]
users: [{name: admin, user: {token: lab-admin}}]
contexts: [{name: lab, context: {cluster: lab, user: admin}}]
current-context: lab
YAML
)

certificate() {
    openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
        -out "$1.crt" -extfile <(echo "$3")
}

start_api_server() {
    start apiserver nsenter --net=/run/netns/$LAN "$KUBERNETES_BIN/kube-apiserver" \
        --etcd-servers=http://127.0.0.1:2379 --bind-address=$API --advertise-address=$API \
        --secure-port=6443 --tls-cert-file=$LAB/api.crt --tls-private-key-file=$LAB/api.key \
        --client-ca-file=$LAB/ca.crt --token-auth-file=$LAB/tokens.csv \
        --authorization-mode=Node,RBAC --service-account-key-file=$LAB/accounts.pub \
        --service-account-signing-key-file=$LAB/accounts.key \
        --service-account-issuer=https://kubernetes.default.svc \
        --kubelet-client-certificate=$LAB/kubelet-client.crt \
        --kubelet-client-key=$LAB/kubelet-client.key --allow-privileged=true \
        --service-cluster-ip-range=10.96.0.0/16 --kubelet-preferred-address-types=InternalIP
    await 120 "the API server" kubectl get --raw /readyz
}

start_control_plane() {
    start etcd nsenter --net=/run/netns/$LAN etcd --data-dir $LAB/etcd \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
    start_api_server
    start controllers nsenter --net=/run/netns/$LAN "$KUBERNETES_BIN/kube-controller-manager" \
        --kubeconfig=$LAB/admin.kubeconfig --root-ca-file=$LAB/ca.crt \
        --service-account-private-key-file=$LAB/accounts.key \
        --use-service-account-credentials=true --cluster-cidr=10.244.0.0/16 \
        --allocate-node-cidrs=true --node-cidr-mask-size=27 --leader-elect=false
    start scheduler nsenter --net=/run/netns/$LAN "$KUBERNETES_BIN/kube-scheduler" \
        --kubeconfig=$LAB/admin.kubeconfig --leader-elect=false
}

# Starts node n1 or n2: namespaces, containerd with the images, kubelet, kube-proxy.
start_node() {
    local node=$1 dir=$LAB/$1 number=${1#n}
    mkdir -p "$dir"
    ip netns add "pgc-$node"
    ip link add "pgc$number" netns $LAN type veth peer name eth0 netns "pgc-$node"
    ip -n $LAN link set "pgc$number" master lan0 up
    ip -n "pgc-$node" link set lo up
    ip -n "pgc-$node" link set eth0 up
    ip -n "pgc-$node" addr add "192.168.77.1$number/24" dev eth0
    ip -n "pgc-$node" route add default via $API
    rm -f "$dir/holder.pid"
    start "$node/shell" nsenter --net="/run/netns/pgc-$node" \
        unshare -m -u --propagation private bash "$CLUSTER/node.sh" "$dir" "$node" \
        "${NODE_FOLDERS[@]}"
    await 20 "the namespaces of $node" test -s "$dir/holder.pid"
    start_containerd "$node"
    local image
    for image in $LAB/images/*.tar; do
        on "$node" ctr -n k8s.io images import "$image" >/dev/null || fail "image $image"
    done
    start_kubelet "$node"
    cat >"$dir/proxy.yaml" <<YAML
kind: KubeProxyConfiguration
apiVersion: kubeproxy.config.k8s.io/v1alpha1
clientConnection: {kubeconfig: $LAB/admin.kubeconfig}
clusterCIDR: 10.244.0.0/16
mode: iptables
hostnameOverride: $node
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
    start "$node/proxy" nsenter -t "$(cat "$dir/holder.pid")" -n -m -u \
        "$KUBERNETES_BIN/kube-proxy" --config="$dir/proxy.yaml"
}

start_containerd() {
    cat >"$LAB/$1/containerd.toml" <<'TOML'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
TOML
    start "$1/containerd" nsenter -t "$(cat "$LAB/$1/holder.pid")" -n -m -u \
        containerd -c "$LAB/$1/containerd.toml"
    await 60 "containerd of $1" on "$1" ctr version
}

start_kubelet() {
    cat >"$LAB/$1/kubelet.yaml" <<YAML
kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $LAB/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
address: 192.168.77.1${1#n}
healthzBindAddress: 127.0.0.1
evictionHard: {memory.available: 1Mi, nodefs.available: 0%, nodefs.inodesFree: 0%}
imageGCHighThresholdPercent: 100
YAML
    start "$1/kubelet" nsenter -t "$(cat "$LAB/$1/holder.pid")" -n -m -u \
        "$KUBERNETES_BIN/kubelet" --config="$LAB/$1/kubelet.yaml" --container-runtime=remote \
        --container-runtime-endpoint=unix:///run/containerd/containerd.sock \
        --kubeconfig=$LAB/admin.kubeconfig --root-dir=/var/lib/kubelet --hostname-override="$1" \
        --node-ip="192.168.77.1${1#n}" --cert-dir=/var/lib/kubelet/pki
}

# Routes to the pods of the other nodes, as a cloud's route controller would add them.
add_routes() {
    local of on_node
    for of in "$@"; do
        await 60 "the podCIDR of $of" pod_network "$of"
        for on_node in "$@"; do
            [ "$of" = "$on_node" ] || ip -n "pgc-$on_node" route replace "$(pod_network "$of")" \
                via "192.168.77.1${of#n}"
        done
    done
    for of in "$@"; do ip netns exec "pgc-$of" sysctl -qw net.ipv4.ip_forward=1; done
}

pod_network() {
    kubectl get node "$1" -o 'jsonpath={.spec.podCIDR}' | grep .
}

# All processes below these.
descendants() {
    local child
    for child in $(pgrep -P "$(echo "$@" | tr ' ' ,)"); do
        echo "$child"
        descendants "$child"
    done
}

# Ends a node at once, as a power failure does: no program on it gets to clean up.
kill_node() {
    local dir=$LAB/$1 holder namespace pid found=()
    holder=$(cat "$dir/holder.pid" 2>/dev/null) || return 0
    namespace=$(readlink "/proc/$holder/ns/mnt")
    on "$1" ctr -n k8s.io containers ls -q >>$LAB/containers 2>/dev/null || true
    for pid in /proc/[0-9]*; do
        [ "$(readlink "$pid/ns/mnt" 2>/dev/null)" = "$namespace" ] || continue
        found+=("${pid#/proc/}")
    done
    # Containers' processes have other mount namespaces: they are below the shims.
    local all
    all=$(for pid in "${found[@]}"; do descendants "$pid"; done | sort -u)
    # shellcheck disable=SC2086
    kill -KILL "${found[@]}" $all 2>/dev/null || true
    for pid in "${found[@]}" $all; do
        while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    done
    # What a machine has in memory only.
    rm -rf "$dir"/*.pid "$dir/fs/run"
    ip netns del "pgc-$1" 2>/dev/null || true
    ip -n $LAN link del "pgc${1#n}" 2>/dev/null || true
}

# Ends everything that the lab started, by its own names and process ids.
lab_down() {
    set +e
    local node name
    for node in n1 n2; do kill_node $node; done
    for name in scheduler controllers apiserver etcd; do stop $name -KILL; done
    # Probes of a check that failed.
    for name in "$LAB"/*.pid; do stop "$(basename "$name" .pid)" -KILL; done
    ip netns del $LAN 2>/dev/null
    [ -e $LAB/sysctls ] && sysctl -q -p $LAB/sysctls
    for name in $(sort -u $LAB/containers 2>/dev/null); do
        find /sys/fs/cgroup -depth -type d -name "$name" -exec rmdir {} \; 2>/dev/null
    done
    # Empty folders that the nodes' mounts needed.
    cat $LAB/n?/made 2>/dev/null | sort -ur | xargs -r rmdir 2>/dev/null
    [ -n "${KEEP-}" ] || rm -rf $LAB
}

lab_up() {
    rm -rf $LAB
    mkdir -p $LAB
    for name in "${KUBELET_SYSCTLS[@]}"; do
        echo "$name = $(sysctl -n "$name")"
    done >$LAB/sysctls
    make_certificates >$LAB/certificates.log 2>&1 || fail "certificates"
    make_images
    make_network
    start_control_plane
}

# Images of podgate, with its libraries, and of busybox, curl and dnsmasq for pods.
make_images() {
    local root=$LAB/root program
    mkdir -p $LAB/images "$root/usr/bin" "$root/var" "$root/run" "$root/tmp"
    ln -s /run "$root/var/run"
    for program in podgate podgate-cni; do
        strip -o "$root/usr/bin/$program" "$PROGRAMS/$program"
        ldd "$PROGRAMS/$program" | grep -o '/[^ ]*' | xargs -I{} cp --parents -L {} "$root"
    done
    tests/cluster/image.py $LAB/images/podgate.tar docker.io/library/podgate:0.1.0 "$root" podgate
    root=$LAB/pods
    mkdir -p "$root/bin" "$root/www" "$root/tmp" "$root/etc" "$root/var"
    cp /bin/busybox "$root/bin/"
    for program in sh sleep nc httpd head cat; do
        ln -s busybox "$root/bin/$program"
    done
    for program in /usr/bin/curl /usr/sbin/dnsmasq; do
        cp "$program" "$root/bin/"
        ldd "$program" | grep -o '/[^ ]*' | xargs -I{} cp --parents -L {} "$root"
    done
    echo root:x:0:0:root:/:/bin/sh >"$root/etc/passwd"
    tests/cluster/image.py $LAB/images/pods.tar localhost/pods:1 "$root"
    tests/cluster/image.py $LAB/images/pause.tar localhost/pause:1 "$root" sleep infinity
}
