// SPDX-License-Identifier: Apache-2.0
//
// Programs at the tcx hooks. The egress hook sees all packets that the kernel transmits on a link,
// whether routed, bridged or from a local socket, but not those that AF_XDP sockets transmit
// (net/xdp/xsk.c, `__dev_direct_xmit`).
//
// `guard`, at the egress hook of the host's end of a pod's veth pair: the pod receives IP from the
// workers only.
//
//   ARP and ND, see neighbours.bpf.h              -> passed to the pod, up to a rate
//   IP to the MAC address of a pod that is ready  -> pg-host, and so to the workers, which apply
//                                                    policy as to other packets from the kernel
//   all other frames                              -> dropped, see drops.bpf.h
//
// TC_ACT_UNSPEC continues with the programs and classifiers attached after ours.
//
// Without pg-host, IP is dropped here; without an agent, at pg-xsk, where there is no socket.
//
// `mark`, at the egress hook of pg-host: stores in the Ethernet source, which has no other use on
// that link, where the kernel got the packet from:
//
//   - From pg-host. Only such a packet may have the address of a local pod as its source: the pod
//     sent it, the workers allowed it, and the kernel sent it back to another destination (a
//     service's backend). The mark has the slot of the pod's link, so that the workers know the pod
//     although the kernel may have translated its address.
//   - From no link, and a socket of the node's network namespace: this node sent it, and only such
//     a packet has the rights of the node. A packet that was received has the ifindex of its link
//     in skb->skb_iif (net/core/dev.c, `__netif_receive_skb_core`). What a macvlan device in a pod
//     sends by a link of the node is not received, and has the socket of the pod
//     (drivers/net/macvlan.c, `macvlan_queue_xmit`). A fragment that the kernel made may have lost
//     the ifindex (net/ipv6/ip6_output.c, `ip6_copy_metadata`), so no fragment counts as the
//     node's.
//   - From another link.
//
// `sender`, at the ingress hook of pg-host: the workers write into the Ethernet source the slot of
// the link that they received the packet from. The program copies it into skb->tc_index, which the
// kernel does not change between here and `mark`: routing, netfilter and fragmentation
// (net/ipv4/ip_output.c, `ip_copy_metadata`) preserve it. Without this program the slot is 0, that
// of pg-host, which is no pod's.

#pragma once

#include <linux/ip.h>
#include <linux/pkt_cls.h>

#include "drops.bpf.h"
#include "neighbours.bpf.h"

// Ethernet sources on the host link, which src/host_frame.rs reads and writes as well.
#define MARK(slot, kind) { 0x02, 'p', 'g', (__u8)((slot) >> 8), (__u8)(slot), kind }
#define MARK_FOREIGN 0
#define MARK_HAIRPIN 1
#define MARK_LOCAL 2
#define MARK_FROM_WORKERS 3

// IPv4 "more fragments" and the 13 bits of fragment offset, RFC 791 section 3.1.
#define IPV4_FRAGMENT 0x3fff

// ifindex of pg-host; 0 while there is none.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} HOST_LINK SEC(".maps");

// Cookie of the node's network namespace; 0 if the kernel gives programs at tcx hooks no cookies.
const volatile __u64 node_netns;

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

// Accounts for ARP or ND to the pod; false if it exceeds the rate.
static __always_inline bool is_within_rate(struct __sk_buff *skb, const struct ethhdr *eth,
					   const struct neigh_msg *msg)
{
	return ratelimit_allows_to_pod(slot_of(skb->ifindex),
				       msg->is_reply && !(eth->h_dest[0] & 1),
				       !skb->ingress_ifindex);
}

static __always_inline int redirect_to_workers(struct __sk_buff *skb, const __u8 *destination_mac)
{
	__u32 ifindex = skb->ifindex, zero = 0;
	struct pod *pod = bpf_map_lookup_elem(&PODS, &ifindex);
	__u32 *host = bpf_map_lookup_elem(&HOST_LINK, &zero);
	__u8 source[ETH_ALEN] = MARK(0, MARK_FOREIGN);

	if (!pod)
		return drop_to_pod(skb, DROP_TO_POD_NOT_READY);
	// A bridge floods frames to an unknown MAC address, to other pods too.
	if (!same_mac(destination_mac, pod->mac))
		return drop_to_pod(skb, DROP_TO_POD_OTHER_MAC);
	// The packet must not look as if `mark` had marked it.
	if (!host || !*host || !set_source_mac(skb, source))
		return drop_to_pod(skb, DROP_TO_POD_NO_HOST_LINK);
	return bpf_redirect(*host, 0);
}

SEC("classifier")
int guard(struct __sk_buff *skb)
{
	struct neigh_msg msg = {};
	struct ethhdr eth;

	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return drop_to_pod(skb, DROP_TO_POD_NOT_IP);
	if (skb->vlan_present || eth.h_proto == bpf_htons(ETH_P_8021Q) ||
	    eth.h_proto == bpf_htons(ETH_P_8021AD))
		return drop_to_pod(skb, DROP_TO_POD_TAGGED);
	if (is_neighbour(skb, eth.h_proto, &msg)) {
		__u32 ifindex = skb->ifindex;
		struct pod *pod = bpf_map_lookup_elem(&PODS, &ifindex);

		// A bridge floods frames to an unknown MAC address, to other pods too.
		if (pod && !(eth.h_dest[0] & 1) && !same_mac(eth.h_dest, pod->mac))
			return drop_to_pod(skb, DROP_TO_POD_OTHER_MAC);
		if (!is_within_rate(skb, &eth, &msg))
			return drop_to_pod(skb, DROP_TO_POD_NEIGHBOUR_RATE);
		if (pod)
			learn_neighbour(ifindex, pod, &msg);
		return TC_ACT_UNSPEC;
	}
	if (eth.h_proto != bpf_htons(ETH_P_IP) && eth.h_proto != bpf_htons(ETH_P_IPV6))
		return drop_to_pod(skb, DROP_TO_POD_NOT_IP);
	// Multicast is not forwarded. The workers would drop each pod's copy.
	if (eth.h_dest[0] & 1)
		return drop_to_pod(skb, DROP_TO_POD_MULTICAST);
	return redirect_to_workers(skb, eth.h_dest);
}

// Whether it is an IP packet and certainly no fragment. An IPv6 fragment header may follow other
// extension headers (RFC 8200 section 4.1), so none of those is allowed.
static __always_inline bool is_whole_ip(struct __sk_buff *skb)
{
	__be16 ethertype, offset;
	__u8 next;

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_proto), &ethertype, 2))
		return false;
	if (ethertype == bpf_htons(ETH_P_IP))
		return !bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, frag_off),
					   &offset, 2) &&
		       !(offset & bpf_htons(IPV4_FRAGMENT));
	if (ethertype != bpf_htons(ETH_P_IPV6) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, nexthdr), &next, 1))
		return false;
	return next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_FRAGMENT &&
	       next != IPPROTO_DSTOPTS && next != IPPROTO_AH;
}

static __always_inline bool is_sent_by_node(struct __sk_buff *skb)
{
	if (skb->ingress_ifindex)
		return false;
	// Without a socket, the helper returns the cookie of the initial namespace.
	return !node_netns || (skb->sk && bpf_get_netns_cookie(skb) == node_netns);
}

SEC("classifier")
int mark(struct __sk_buff *skb)
{
	__u16 slot = 0;
	__u8 kind = MARK_FOREIGN;

	if (skb->ingress_ifindex == skb->ifindex) {
		kind = MARK_HAIRPIN;
		slot = skb->tc_index;
	} else if (is_sent_by_node(skb) && is_whole_ip(skb)) {
		kind = MARK_LOCAL;
	}
	__u8 source[ETH_ALEN] = MARK(slot, kind);

	return set_source_mac(skb, source) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

SEC("classifier")
int sender(struct __sk_buff *skb)
{
	__u8 from_workers[ETH_ALEN] = MARK(0, MARK_FROM_WORKERS), mac[ETH_ALEN];
	__u16 slot = 0;

	if (!bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_source), mac, ETH_ALEN)) {
		slot = mac[3] << 8 | mac[4];
		mac[3] = mac[4] = 0;
		if (!same_mac(mac, from_workers))
			slot = 0;
	}
	skb->tc_index = slot;
	return TC_ACT_UNSPEC;
}
