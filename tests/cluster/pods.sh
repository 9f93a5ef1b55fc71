# shellcheck shell=bash
# Pods of the cluster, and what passes between them: sourced by tests/cluster/run.

# Process id and address of each pod in namespace shop; find_pods sets them.
declare -A PID IP
# A server's commands: pages at 8080, an echo at 9000.
SERVE='echo served > /www/index.html; nc -ll -p 9000 -e cat & exec httpd -f -p 8080 -h /www'
# A client's commands: what its network namespace has counted before its process began, first.
WAIT='cat /proc/net/snmp >/tmp/born; exec sleep infinity'
READY='{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\n"}'
POD_COLUMNS='N:.metadata.name,A:.status.podIP,I:.status.containerStatuses[0].containerID'
# Names that the cluster's DNS knows, by dnsmasq: no package has CoreDNS.
NAMES='exec dnsmasq -k -u root -R -h --local=/cluster.local/ --pid-file=/tmp/dnsmasq.pid
    --address=/web.shop.svc.cluster.local/10.96.0.80
    --address=/back.shop.svc.cluster.local/10.96.0.81'

# The manifest of a pod: NAME NODE COMMAND [LABEL]
pod() {
    cat <<YAML
---
apiVersion: v1
kind: Pod
metadata: {name: $1, namespace: shop, labels: {app: "${4-$1}"}}
spec:
  nodeSelector: {kubernetes.io/hostname: $2}
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "localhost/pods:1", imagePullPolicy: Never, command: [sh, -c, "$3"]${5-}}
YAML
}

# The manifest of a service: NAME ADDRESS PORT TARGET PROTOCOL NODEPORT
service() {
    cat <<YAML
---
apiVersion: v1
kind: Service
metadata: {name: $1, namespace: shop}
spec:
  type: NodePort
  clusterIP: $2
  selector: {app: $1}
  ports: [{port: $3, targetPort: $4, protocol: $5, nodePort: $6}]
YAML
}

make_pods() {
    local probed=', readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}'
    kubectl create namespace shop >/dev/null
    await 30 "the service account" kubectl -n shop get serviceaccount default
    {
        pod web n1 "$SERVE" web "$probed"
        pod near n1 "$WAIT"
        pod far n2 "$WAIT"
        pod back n2 "$SERVE" back "$probed"
        pod dns n2 "${NAMES//$'\n'/ }"
        service dns 10.96.0.10 53 53 UDP 30053
        service web 10.96.0.80 80 8080 TCP 30080
        service back 10.96.0.81 80 8080 TCP 30081
    } | kubectl apply -f - >/dev/null
    await 120 "pods" pods_ready
    find_pods || fail "a pod has no process"
}

# Not by `kubectl wait`: of more than ten pods its client asks too slowly for a short timeout.
pods_ready() {
    local ready
    ready=$(kubectl -n shop get pods -o "jsonpath={range .items[*]}$READY{end}") || return
    grep -q . <<<"$ready" && ! grep -qv '=True$' <<<"$ready"
}

# Sets PID and IP. Returns 1 if a pod has no process.
find_pods() {
    local name node address id tasks
    tasks=$(for node in "${NODES[@]}"; do on "$node" ctr -n k8s.io tasks ls; done)
    PID=() IP=()
    while read -r name address id; do
        IP[$name]=$address
        PID[$name]=$(awk -v id="${id#*//}" '$1 == id {print $2}' <<<"$tasks")
        [ -n "${PID[$name]}" ] || return
    done < <(kubectl -n shop get pods --no-headers -o custom-columns="$POD_COLUMNS")
}

# The addresses that a node's new pods may get.
free_addresses() {
    local network used
    network=$(pod_network "$1")
    used=" ${IP[*]} "
    python3 -c 'import ipaddress, sys
print(*ipaddress.ip_network(sys.argv[1]).hosts())' "$network" | tr ' ' '\n' |
        while read -r address; do
            [[ $used == *" $address "* ]] || echo "$address"
        done
}

# Runs a program of a pod in the pod: POD COMMAND
inside() {
    nsenter -t "${PID[$1]}" -n -m -- "${@:2}"
}

# Starts a program of this machine in a pod's network namespace: NAME POD COMMAND
start_in() {
    start "$1" nsenter --net="/proc/${PID[$2]}/ns/net" "${@:3}"
}

# Ends a probe. Returns whether it printed this: NAME PATTERN
stop_and_expect() {
    stop "$1"
    grep -qE "$2" "$LAB/$1.log" || fail "$1: $(tail -n 3 "$LAB/$1.log")"
}

# The status of a pod's HTTP request, 000 if none: POD URL
code_of() {
    inside "$1" curl -s -m 2 -o /dev/null -w '%{http_code}' "$2" || true
}

# Whether the status of a pod's request is this one: POD URL CODE
answers() {
    [ "$(code_of "$1" "$2")" = "$3" ]
}

# Whether a pod gets the page of another pod, or is denied it: POD POD
gets() {
    answers "$1" "http://${IP[$2]}:8080/" 200
}

gets_not() {
    answers "$1" "http://${IP[$2]}:8080/" 000
}

# Applies a policy of namespace shop, its spec in YAML: KIND NAME SPEC
policy() {
    local version=networking.k8s.io/v1
    [ "$1" = NetworkPolicy ] || version=cilium.io/v2
    kubectl apply --validate=false -f - >/dev/null <<YAML
apiVersion: $version
kind: $1
metadata: {name: $2, namespace: shop}
spec: $3
YAML
}

delete_policies() {
    kubectl -n shop delete networkpolicies,ciliumnetworkpolicies --all >/dev/null
}

# Only near gets to web, and far is denied at once.
permit_near_only() {
    policy NetworkPolicy web '{podSelector: {matchLabels: {app: web}},
        ingress: [{from: [{podSelector: {matchLabels: {app: near}}}]}]}'
    await 20 "far to be denied" gets_not far web
}

# The name of a node's agent.
agent_on() {
    kubectl -n kube-system get pods -l app.kubernetes.io/name=podgate \
        --field-selector "spec.nodeName=$1" -o 'jsonpath={.items[0].metadata.name}'
}

# The process of a node's agent.
agent_pid() {
    local pid namespace
    namespace=$(readlink "/proc/$(cat "$LAB/$1/holder.pid")/ns/net")
    for pid in $(pgrep -f '^podgate run '); do
        [ "$(readlink "/proc/$pid/ns/net")" != "$namespace" ] || echo "$pid"
    done
}

agent_runs() {
    kubectl -n kube-system exec "$(agent_on "$1")" -c agent -- podgate "${@:2}"
}

agents_ready() {
    kubectl -n kube-system rollout status daemonset/podgate --timeout=1s &&
        [ "$(kubectl -n kube-system get daemonset podgate -o 'jsonpath={.status.numberReady}')" = \
            ${#NODES[@]} ]
}
