# shellcheck shell=bash What a cluster requires of its network plugin: sourced by tests/cluster/run.

# Whether podgate is the only plugin (alone), or behind bridge (chained).
MODE=alone

# Installs the chart, and waits until the agents are ready.
install_podgate() {
    kubectl apply -f deploy/helm/podgate/crds >/dev/null
    "$HELM" template podgate deploy/helm/podgate --namespace kube-system \
        --set config.max-endpoints=31 --set cni.mode=$MODE >$LAB/podgate.yaml
    kubectl apply --dry-run=server -f deploy/podgate.yaml >/dev/null
    kubectl apply -f $LAB/podgate.yaml >/dev/null
    await 180 "agents" agents_ready
}

the_api_server_accepts_the_crds() {
    local wrong
    $PROGRAMS/podgate crds | kubectl apply --dry-run=server -f - >/dev/null
    kubectl wait --for=condition=Established crd --all --timeout=30s >/dev/null
    wrong=$(kubectl get crd -o \
        'jsonpath={.items[*].status.conditions[?(@.type=="NonStructuralSchema")].message}')
    [ -z "$wrong" ] || fail "$wrong"
}

the_agents_rights_are_the_charts() {
    local pid expected=0 bit
    pid=$(agent_pid n1)
    # DAC_READ_SEARCH, NET_BROADCAST, NET_ADMIN, NET_RAW, IPC_LOCK, SYS_ADMIN, BPF.
    for bit in 2 11 12 13 14 21 39; do expected=$((expected | 1 << bit)); done
    expected=$(printf '%016x' $expected)
    grep -q "^CapPrm:.*$expected" "/proc/$pid/status" || fail "$(grep Cap "/proc/$pid/status")"
    grep -q '^Seccomp:.*2' "/proc/$pid/status" || fail "no seccomp filter"
    ! agent_runs n1 status | grep -E "can't be watched|not written|403" >&2 ||
        fail "a right is missing"
}

pods_reach_each_other() {
    local from
    for from in near far; do
        await 20 "web for $from" gets $from web
        await 20 "back for $from" gets $from back
    done
    # The path between nodes has an MTU of 1,500, and a pod's link 65,535.
    inside web sh -c 'head -c 8000000 /dev/zero >/www/large'
    [ "$(inside far curl -s -m 20 "http://${IP[web]}:8080/large" | wc -c)" = 8000000 ] ||
        fail "the large page"
}

services_and_dns_work() {
    local from
    for from in near far; do
        await 30 "the service for $from" answers $from http://10.96.0.80/ 200
        await 30 "the name for $from" answers $from http://web.shop.svc.cluster.local./ 200
        await 30 "the short name for $from" answers $from http://web/ 200
    done
    answers web http://10.96.0.80/ 200 || fail "web doesn't reach itself by its service"
    # A DNS rule decides on names, behind the service of the cluster's DNS.
    policy CiliumNetworkPolicy dns '{endpointSelector: {matchLabels: {app: far}}, egress: [
        {toEndpoints: [{matchLabels: {app: dns}}], toPorts: [{ports: [{port: "53", protocol: ANY}],
            rules: {dns: [{matchName: web.shop.svc.cluster.local}]}}]},
        {toEndpoints: [{matchLabels: {app: web}}, {matchLabels: {app: back}}]}]}'
    await 20 "a name to be denied" answers far http://back.shop.svc.cluster.local./ 000
    answers far http://web.shop.svc.cluster.local./ 200 || fail "a permitted name is denied"
    answers far http://10.96.0.81/ 200 || fail "back is denied"
    delete_policies
    await 20 "the name to be allowed" answers far http://back.shop.svc.cluster.local./ 200
}

# Changes of a policy that still allow the traffic interrupt nothing.
policies_change_while_traffic_flows() {
    local n
    start_steady near
    start_steady far
    for n in {1..10}; do
        policy NetworkPolicy web "{podSelector: {matchLabels: {app: web}}, ingress: [
            {from: [{podSelector: {matchLabels: {app: near}}}]},
            {from: [{podSelector: {matchExpressions: [
                {key: app, operator: In, values: [far, other-$n]}]}}]}]}"
    done
    stop_and_expect steady-far ', 0 failures'
    start_steady far
    permit_near_only
    stop_and_expect steady-far 'echo: '
    gets near web || fail "near is denied"
    # The kubelet's probes pass all the same.
    policy NetworkPolicy web '{podSelector: {matchLabels: {app: web}}}'
    await 20 "near to be denied" gets_not near web
    stop_and_expect steady-near 'failures'
    pods_ready >/dev/null || fail "a probe of the kubelet is denied"
    delete_policies
    await 20 "far to be allowed" gets far web
}

start_steady() {
    start_in "steady-$1" "$1" $CLUSTER/probe.py steady "${IP[web]}"
    await 20 "$1 to connect" grep -q connected "$LAB/steady-$1.log"
}

# Egress policy is decided on the backend; each end's node enforces its own.
policies_apply_behind_services() {
    policy NetworkPolicy near '{podSelector: {matchLabels: {app: near}}, policyTypes: [Egress],
        egress: [{to: [{podSelector: {matchLabels: {app: back}}}], ports: [{port: 8080}]}]}'
    await 20 "web to be denied" answers near http://10.96.0.80/ 000
    answers near http://10.96.0.81/ 200 || fail "near doesn't reach the service back"
    # kube-proxy would translate its own node's ports, which a pod may always send to.
    answers near http://192.168.77.11:30080/ 000 || fail "near reaches web by a node port"
    answers near http://192.168.77.11:30081/ 200 || fail "near doesn't reach back by a node port"
    answers far http://192.168.77.11:30080/ 200 || fail "far doesn't reach web by a node port"
    policy NetworkPolicy back '{podSelector: {matchLabels: {app: back}},
        ingress: [{from: [{podSelector: {matchLabels: {app: near}}}]}]}'
    await 20 "far to be denied" answers far http://10.96.0.81/ 000
    answers near http://10.96.0.81/ 200 || fail "near doesn't reach the service back"
    delete_policies
    await 20 "web to be allowed" answers near http://10.96.0.80/ 200
}

l7_policies_are_enforced() {
    policy CiliumNetworkPolicy web '{endpointSelector: {matchLabels: {app: web}}, ingress: [
        {fromEndpoints: [{matchLabels: {app: near}}], toPorts: [
            {ports: [{port: "8080", protocol: TCP}],
             rules: {http: [{path: "/other|/index.html"}]}}]}]}'
    await 20 "near to be denied" answers near http://10.96.0.80/ 403
    answers near http://10.96.0.80/other 404 || fail "a permitted request is denied"
    answers near http://10.96.0.80/index.html 200 || fail "a permitted request is denied"
    gets_not far web || fail "far is allowed"
    await 20 "the policy's status" enforced_by_all web
    delete_policies
    await 20 "near to be allowed" gets near web
}

# Whether every node has written that it enforces a policy.
enforced_by_all() {
    local node
    [ "$(condition "$1" Valid status)" = True ] || return
    for node in "${NODES[@]}"; do
        condition "$1" "podgate/$node" message | grep -q 'generation 1 in force, epoch' || return
    done
}

# A member of a CiliumNetworkPolicy's condition: POLICY TYPE MEMBER
condition() {
    kubectl -n shop get ciliumnetworkpolicy "$1" \
        -o "jsonpath={.status.conditions[?(@.type==\"$2\")].$3}"
}

a_rejected_policy_says_why() {
    policy CiliumNetworkPolicy wrong '{endpointSelector: {matchLabels: {app: web}},
        ingress: [{fromEndpoints: [{}], fromNobody: []}]}'
    await 20 "the rejection" rejected
    [ "$(condition wrong Valid status)" = False ] || fail "$(condition wrong Valid status)"
    agent_runs n1 policy list | grep -q fromNobody || fail "policy list"
    policy CiliumNetworkPolicy wrong '{endpointSelector: {matchLabels: {app: web}}, ingress: [{}]}'
    await 20 "the acceptance" event_of wrong PolicyAccepted
    [ "$(condition wrong Valid status)" = True ] || fail "$(condition wrong Valid status)"
    delete_policies
}

rejected() {
    condition wrong Valid message | grep -q fromNobody && event_of wrong PolicyRejected &&
        [ "$(condition wrong podgate/n2 status)" = False ]
}

# Whether there is an Event: POLICY REASON
event_of() {
    kubectl -n shop get events --field-selector "involvedObject.name=$1,reason=$2" -o name |
        grep -q .
}

# While there is no agent nothing passes that policy denies, and afterwards neither.
the_agent_restarts() {
    local before
    permit_near_only
    start_in silent far $CLUSTER/probe.py silent "${IP[web]}" 8080
    before=$(agent_pid n1)
    kill -KILL "$before"
    await 120 "the agent after SIGKILL" another_agent "$before"
    await 20 "near to be allowed" gets near web
    before=$(agent_pid n1)
    kubectl -n kube-system delete pod "$(agent_on n1)" --wait=false >/dev/null
    await 120 "another agent" another_agent "$before"
    await 20 "near to be allowed" gets near web
    stop_and_expect silent ' 0 answers'
}

another_agent() {
    local pid
    pid=$(agent_pid n1)
    [ -n "$pid" ] && [ "$pid" != "$1" ] && agents_ready
}

the_kubelet_is_killed() {
    permit_near_only
    stop n1/kubelet -KILL
    gets near web || fail "near is denied"
    start_kubelet n1
    await 120 "node n1" kubectl wait --for=condition=Ready node n1 --timeout=1s
    gets near web || fail "near is denied"
    gets_not far web || fail "far is allowed"
}

# What changed while the API server was away is seen afterwards, though etcd has no history of it.
the_api_server_is_killed_and_etcd_compacted() {
    local key revision
    permit_near_only
    stop apiserver -KILL
    gets near web || fail "near is denied"
    gets_not far web || fail "far is allowed"
    key=$(printf /registry/networkpolicies/shop/web | base64)
    revision=$(etcd kv/deleterange "{\"key\": \"$key\"}" |
        sed -n 's/.*"revision":"\([0-9]*\)".*"deleted":"1".*/\1/p')
    [ -n "$revision" ] || fail "etcd does not delete the policy"
    etcd kv/compaction "{\"revision\": $revision, \"physical\": true}" >/dev/null
    gets_not far web || fail "far is allowed"
    start_api_server
    await 60 "far to be allowed" gets far web
    ! knows_policy web || fail "the deleted policy is there"
    # Watches continue.
    permit_near_only
    delete_policies
    await 20 "far to be allowed" gets far web
}

# A request to etcd's JSON interface: PATH BODY
etcd() {
    nsenter --net=/run/netns/$LAN curl -sf "http://127.0.0.1:2379/v3/$1" -d "$2"
}

# Pods that come and go, at addresses that are used again and again. Another pod sends to all of
# these, from before the pods' birth: policy denies it every packet.
pods_come_and_go() {
    local count=$1 round before name names memory free
    policy NetworkPolicy closed '{podSelector: {matchLabels: {app: closed}}}'
    await 20 "the policy" knows_policy closed
    before=$(what_is_left)
    mapfile -t free < <(free_addresses n1)
    start_in hammer far $CLUSTER/probe.py hammer "${free[@]}"
    for ((round = 0; round < count / 5; round++)); do
        names=("p$round-1" "p$round-2" "p$round-3" "p$round-4" "p$round-5")
        {
            for name in "${names[@]}"; do pod "$name" n1 "$WAIT" closed; done
            [ $round != 0 ] || pod open n1 "$WAIT"
        } | kubectl apply -f - >/dev/null
        await 120 "pods" pods_ready
        find_pods || fail "a pod has no process"
        for name in "${names[@]}"; do
            [ "$(received "$name")" = 0 ] || fail "$name got $(received "$name") packets"
        done
        if [ $round = 0 ]; then
            await 20 "packets to a pod without policy" gets_packets open
            names+=(open)
        fi
        kubectl -n shop delete pod --force --grace-period=0 "${names[@]}" >/dev/null 2>&1
        [ $round != 1 ] || memory=$(agent_memory)
    done
    stop_and_expect hammer rounds
    await 60 "what pods left behind to go: $before" leaves "$before"
    echo "    memory of the agent: $memory KiB after 10 pods, $(agent_memory) KiB after $count"
    [ "$(agent_memory)" -lt $((memory + 8192)) ] || fail "the agent's memory grows"
    delete_policies
}

knows_policy() {
    agent_runs n1 policy list | grep -qE "shop +$1 "
}

# Packets that a pod has received since its network namespace was made, or, behind another plugin
# which gives it its link, since its process began.
received() {
    local before=0
    [ "$MODE" = alone ] || before=$(counted "/proc/${PID[$1]}/root/tmp/born")
    echo $(($(counted "/proc/${PID[$1]}/net/snmp") - before))
}

counted() {
    awk '/^Ip: [0-9]/ {print $4}' "$1"
}

gets_packets() {
    [ "$(received "$1")" -gt 0 ]
}

# Endpoints, links, routes, network namespaces and addresses of node n1.
what_is_left() {
    echo "$(agent_runs n1 endpoint list | wc -l) endpoints" \
        "$(ip -n pgc-n1 -o link | wc -l) links" "$(ip -n pgc-n1 route | wc -l) routes" \
        "$(on n1 find /run/netns -type f | wc -l) namespaces" \
        "$(on n1 find /var/lib/cni/networks -name '10.*' | wc -l) addresses"
}

leaves() {
    [ "$(what_is_left)" = "$1" ]
}

agent_memory() {
    awk '/^VmRSS/ {print $2}' "/proc/$(agent_pid n1)/status"
}

# After a reboot pods are under policy from their birth, as ever.
a_node_reboots() {
    local free
    policy NetworkPolicy closed '{podSelector: {matchLabels: {app: closed}}}'
    mapfile -t free < <(free_addresses n2)
    pod closed n2 "$WAIT" | kubectl apply -f - >/dev/null
    await 60 "pods" pods_ready
    kill_node n2
    # Also to the address that the pod had.
    start_in hammer near $CLUSTER/probe.py hammer "${free[@]}"
    start_node n2
    add_routes "${NODES[@]}"
    await 180 "pods of n2" pods_are_back
    await 60 "agents" agents_ready
    [ "$(received closed)" = 0 ] || fail "closed got $(received closed) packets"
    await 60 "far to be allowed" gets far web
    await 60 "back to be allowed" gets near back
    await 60 "the name for far" answers far http://web.shop.svc.cluster.local./ 200
    stop_and_expect hammer rounds
    [ "$(received closed)" = 0 ] || fail "closed got $(received closed) packets"
    kubectl -n shop delete pod --force --grace-period=0 closed >/dev/null 2>&1
    delete_policies
}

pods_are_back() {
    pods_ready && find_pods
}

policy_changes_are_in_force_soon() {
    nsenter --net=/run/netns/$LAN $CLUSTER/probe.py latency "${PID[far]}" "${IP[web]}" "$1" ||
        fail "the probe"
    agent_runs n1 status | grep -i latency || true
    delete_policies
}

# As docs/install/removal.md says.
podgate_is_removed() {
    local node left
    kubectl delete namespace shop >/dev/null
    for node in "${NODES[@]}"; do
        await 60 "the pods of $node to go" has_no_pod_links "$node"
        on "$node" $PROGRAMS/podgate cni remove >/dev/null
    done
    kubectl delete -f $LAB/podgate.yaml >/dev/null
    for node in "${NODES[@]}"; do
        await 60 "the agent of $node to end" agent_is_gone "$node"
        on "$node" $PROGRAMS/podgate cleanup --bpffs /sys/fs/bpf/podgate >/dev/null ||
            fail "podgate cleanup on $node"
        on "$node" rm /opt/cni/bin/podgate-cni
        left=$(on "$node" ls /sys/fs/bpf /etc/cni/net.d
            ip -n "pgc-$node" -o link | grep -vE ': (lo|eth0@)') || true
        ! grep -q podgate <<<"$left" || fail "left on $node: $left"
    done
}

has_no_pod_links() {
    ! ip -n "pgc-$1" -o link | grep -q ': pgp'
}

agent_is_gone() {
    [ -z "$(agent_pid "$1")" ]
}

install_behind_bridge() {
    local node
    for node in "${NODES[@]}"; do
        on "$node" sh -c 'cat >/etc/cni/net.d/10-bridge.conflist' <<JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0",
 "isDefaultGateway": true, "ipam": {"type": "host-local", "subnet": "$(pod_network "$node")"}}]}
JSON
    done
    MODE=chained
    install_podgate
}
