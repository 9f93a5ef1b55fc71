// SPDX-License-Identifier: Apache-2.0
//
// Two programs at the egress hook (tcx). It sees all packets that the kernel transmits on a link,
// whether routed, bridged or from a local socket, but not those that AF_XDP sockets transmit
// (net/xdp/xsk.c, `__dev_direct_xmit`).
//
// `guard`, on the host's end of a pod's veth pair: the pod receives IP from the workers only.
//
//   ARP and ND, see neighbours.bpf.h              -> passed to the pod
//   IP to the MAC address of a pod that is ready  -> pg-host, and so to the workers, which apply
//                                                    policy as to other packets from the kernel
//   all other frames                              -> dropped and counted
//
// TC_ACT_UNSPEC continues with the programs and classifiers attached after ours.
//
// Without pg-host, IP is dropped here; without an agent, at pg-xsk, where there is no socket.
//
// `mark`, on pg-host: writes into the Ethernet source, which has no other use on that link, whether
// the kernel received the packet from pg-host. Only such a packet may have the address of a local
// pod as its source: the pod sent it, the workers allowed it, and the kernel sent it back to
// another destination (a service's backend).

#pragma once

#include <linux/pkt_cls.h>

#include "neighbours.bpf.h"

// src/lib.rs has the same two. Both are locally administered (IEEE 802).
#define HAIRPIN_MAC { 0x02, 'p', 'g', 0x00, 0x00, 0x01 }
#define FOREIGN_MAC { 0x02, 'p', 'g', 0x00, 0x00, 0x00 }

// ifindex of pg-host; 0 while there is none.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} HOST_LINK SEC(".maps");

static __always_inline bool set_source_mac(struct __sk_buff *skb, const __u8 *mac)
{
	return !bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_source), mac, ETH_ALEN, 0);
}

// Parses the frame. False: neither ARP nor ND of the format in neighbours.bpf.h.
static __always_inline bool is_neighbour(struct __sk_buff *skb, __be16 ethertype,
					 struct neigh_msg *msg)
{
	void *data, *end;

	if (skb->len > NEIGHBOUR_MAX || bpf_skb_pull_data(skb, skb->len))
		return false;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (ethertype == bpf_htons(ETH_P_ARP))
		return parse_arp(data, end, msg);
	return ethertype == bpf_htons(ETH_P_IPV6) && parse_nd(data, end, msg);
}

static __always_inline int redirect_to_workers(struct __sk_buff *skb, const __u8 *destination_mac)
{
	static const __u8 foreign[ETH_ALEN] = FOREIGN_MAC;
	__u32 ifindex = skb->ifindex, zero = 0;
	struct pod *pod = bpf_map_lookup_elem(&PODS, &ifindex);
	__u32 *host = bpf_map_lookup_elem(&HOST_LINK, &zero);
	__u8 source[ETH_ALEN];

	if (!pod)
		return drop(DROP_TO_POD_NOT_READY, skb->len, TC_ACT_SHOT);
	// A bridge floods frames to an unknown MAC address, to other pods too.
	if (!same_mac(destination_mac, pod->mac))
		return drop(DROP_TO_POD_OTHER_MAC, skb->len, TC_ACT_SHOT);
	__builtin_memcpy(source, foreign, ETH_ALEN);
	// So that the packet does not look as if `mark` had marked it.
	if (!host || !*host || !set_source_mac(skb, source))
		return drop(DROP_TO_POD_NO_HOST_LINK, skb->len, TC_ACT_SHOT);
	return bpf_redirect(*host, 0);
}

SEC("classifier")
int guard(struct __sk_buff *skb)
{
	struct neigh_msg msg = {};
	struct ethhdr eth;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return drop(DROP_TO_POD_NOT_IP, skb->len, TC_ACT_SHOT);
	if (skb->vlan_present || eth.h_proto == bpf_htons(ETH_P_8021Q) ||
	    eth.h_proto == bpf_htons(ETH_P_8021AD))
		return drop(DROP_TO_POD_TAGGED, skb->len, TC_ACT_SHOT);
	if (is_neighbour(skb, eth.h_proto, &msg)) {
		learn_nd_sender(skb->ifindex, &msg);
		return TC_ACT_UNSPEC;
	}
	if (eth.h_proto != bpf_htons(ETH_P_IP) && eth.h_proto != bpf_htons(ETH_P_IPV6))
		return drop(DROP_TO_POD_NOT_IP, skb->len, TC_ACT_SHOT);
	// Multicast is not forwarded. The workers would drop each pod's copy.
	if (eth.h_dest[0] & 1)
		return drop(DROP_TO_POD_MULTICAST, skb->len, TC_ACT_SHOT);
	return redirect_to_workers(skb, eth.h_dest);
}

SEC("classifier")
int mark(struct __sk_buff *skb)
{
	__u8 hairpin[ETH_ALEN] = HAIRPIN_MAC, foreign[ETH_ALEN] = FOREIGN_MAC;
	bool is_hairpin = skb->ingress_ifindex == skb->ifindex;

	return set_source_mac(skb, is_hairpin ? hairpin : foreign) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
