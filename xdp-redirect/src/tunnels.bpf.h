// SPDX-License-Identifier: Apache-2.0
//
// `lookup`, at the socket lookup of the node's network namespace (sk_lookup): UDP from pods reaches
// no tunnel of the node. The workers drop packets from pods to a tunnel's port, but netfilter may
// later translate another destination to such a port, as kube-proxy does for a service. Here the
// destination is final.
//
//   UDP received from pg-host, to a port in TUNNEL_PORTS -> dropped, see drops.bpf.h
//   all other packets                                    -> the kernel's lookup
//
// Without an agent, no packet comes from pg-host.

#pragma once

#include "guard.bpf.h"

#define TUNNEL_WORDS (65536 / 64)

// A bit for each UDP port, that of port 0 first.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TUNNEL_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} TUNNEL_PORTS SEC(".maps");

SEC("sk_lookup")
int lookup(struct bpf_sk_lookup *ctx)
{
	__u32 zero = 0, port = ctx->local_port, word = port / 64;
	__u32 *host;
	__u64 *ports;

	if (ctx->protocol != IPPROTO_UDP)
		return SK_PASS;
	host = bpf_map_lookup_elem(&HOST_LINK, &zero);
	ports = bpf_map_lookup_elem(&TUNNEL_PORTS, &word);
	if (!host || !*host || ctx->ingress_ifindex != *host)
		return SK_PASS;
	if (ports && !(*ports >> (port % 64) & 1))
		return SK_PASS;
	return drop_to_node(ctx, DROP_TO_NODE_TUNNEL);
}
