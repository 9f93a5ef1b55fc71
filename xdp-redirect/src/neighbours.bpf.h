// SPDX-License-Identifier: Apache-2.0
//
// ARP and neighbour discovery (ND): the only frames that go between a pod and the kernel, or a
// bridge, without passing through the workers. The format is the same in both directions:
//
//   ARP  Untagged. A request or reply for IPv4 over Ethernet (RFC 826): 28 bytes, then only zeros
//        up to the minimum length of an Ethernet frame.
//   ND   Untagged. A router solicitation, neighbour solicitation or neighbour advertisement
//        (RFC 4861) directly after the IPv6 header, with hop limit 255, which proves that the
//        sender is on the link (RFC 5082). At most two options of 8 bytes each: source or target
//        link-layer address, or a nonce (RFC 7527). Nothing after them. A multicast destination
//        has link scope.
//
// For frames from a pod there are five more conditions:
//   - The sender's MAC and IP addresses are the pod's, so that a pod can't enter another host's
//     address into a neighbour table. The link-local IPv6 address is the one made of the MAC
//     address (RFC 4291 appendix A). In an ARP probe, which comes from 0.0.0.0 (RFC 5227), and in
//     duplicate address detection, which comes from `::` (RFC 4862 section 5.4), the target is the
//     pod's: whoever has that address, or is about to, takes the message for a claim to it.
//   - Fields that the receiver ignores have no other values than Linux gives them by default, so
//     that pods can't exchange data in them: the target MAC of ARP, traffic class and flow label,
//     the reserved bits of ND, the checksum, the Ethernet destination of multicast. A nonce is only
//     in duplicate address detection.
//   - An IPv6 destination with more than link scope has sent ND to this pod before. Otherwise a
//     node that forwards IPv6 might forward the message.
//   - A unicast reply answers a request for an address of the pod, each request once.
//   - At most NEIGHBOUR_RATE frames a second, and NEIGHBOUR_BURST in a burst; of unicast replies
//     REPLY_RATE. Unicast replies have a limit of their own, because other hosts decide how many a
//     pod sends: a host that asks a pod for its address must use up neither the limit of the pod's
//     own requests nor that of its replies to others.
//
// For frames to a pod there is one: at most REPLY_RATE a second, and REPLY_BURST in a burst. There
// are three such limits: for what this node sends itself, and for the requests and the unicast
// replies that it received from other links (a bridge's). So a flood to a pod uses up neither the
// limit of the replies that the pod waits for nor that of its node.
//
// IPv6 that is not ND by this format is redirected to the workers like other IPv6.

#pragma once

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "rate_limit.bpf.h"

#define NEIGHBOUR_RATE 100ULL
#define NEIGHBOUR_BURST 200ULL
// The requests of 50 pods of a bridge that all ask for one pod as often as they may.
#define REPLY_RATE (50 * NEIGHBOUR_RATE)
#define REPLY_BURST REPLY_RATE

#define ARP_HTYPE_ETHERNET 1
#define ARP_REQUEST 1
#define ARP_REPLY 2

// Router advertisements (134) and redirects (137) are not accepted: no pod is a router, and the
// node's kernel might act on one (CVE-2020-10749).
#define ND_ROUTER_SOLICITATION 133
#define ND_NEIGHBOUR_SOLICITATION 135
#define ND_NEIGHBOUR_ADVERTISEMENT 136
#define ND_HOP_LIMIT 255

#define ND_SOURCE_LINK_LAYER 1
#define ND_TARGET_LINK_LAYER 2
#define ND_NONCE 14
#define ND_OPTIONS_MAX 2

struct pod {
	__u8 mac[ETH_ALEN];
	__u8 pad[2];
};

// ifindex of the host's end of a veth pair -> its pod, while that is ready. The loader sets the
// size.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pod);
} PODS SEC(".maps");

// An address on a link; IPv4 as IPv4-mapped IPv6.
struct link_address {
	__u32 ifindex;
	__u8 address[16];
};

// The pods' own addresses. The loader sets the size.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct link_address);
	__type(value, __u8);
} ADDRESSES SEC(".maps");

// Requests of one address for a pod's that may wait for replies; further ones count as answered.
#define REQUESTS_MAX 16

// Addresses that sent ARP or ND to a pod, and how many of their requests for an address of the pod
// it has not answered yet. When the map is full, the least recently used are evicted: they request
// again, and their pods then send a solicitation by multicast. The loader sets the size.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct link_address);
	__type(value, __u32);
} NEIGHBOURS SEC(".maps");

// Theoretical arrival times of a link's next frames, ns, for the rate limits.
struct neighbour_times {
	__u64 reply; // a unicast reply
	__u64 other;
};

// slot of the link -> its times. The loader sets the size.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct neighbour_times);
} NEIGHBOUR_TIMES SEC(".maps");

// The same for frames to a pod.
struct to_pod_times {
	__u64 reply; // a unicast reply from another link
	__u64 of_node; // any frame that this node sends itself
	__u64 other; // any other frame from another link
};

// As NEIGHBOUR_TIMES. Links without a slot share the times of pg-host, which gets none of these
// frames.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct to_pod_times);
} TO_POD_TIMES SEC(".maps");

// RFC 826, with the addresses of IPv4 over Ethernet.
struct arp {
	__be16 htype;
	__be16 ptype;
	__u8 hlen;
	__u8 plen;
	__be16 op;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target_ip[4];
} __attribute__((packed));

// RFC 4861 sections 4.1, 4.3 and 4.4. A router solicitation has no target.
struct nd {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 flags;
	__u8 target[16];
};

struct nd_option {
	__u8 type;
	__u8 length; // in units of 8 bytes
	__u8 mac[ETH_ALEN];
};

#define ARP_LEN (sizeof(struct ethhdr) + sizeof(struct arp))
#define ND_MIN (sizeof(struct ethhdr) + sizeof(struct ipv6hdr))
// Maximum length of an ARP or ND frame.
#define NEIGHBOUR_MAX (ND_MIN + sizeof(struct nd) + ND_OPTIONS_MAX * sizeof(struct nd_option))

// The fields of an ARP or ND message that are checked.
struct neigh_msg {
	// The address that the sender claims to have: the source of ARP requests and of solicitations,
	// or if they have none, the target, except of router solicitations; the source of ARP replies;
	// the target of advertisements.
	__u8 claimed[16];
	// Of ARP the sender's and the target's.
	__u8 source[16];
	__u8 destination[16];
	// The address that is requested or advertised; none of router solicitations.
	__u8 target[16];
	// The link-layer address in the message; all zeros if there is none.
	__u8 mac[ETH_ALEN];
	bool is_nd;
	// An ARP reply or a neighbour advertisement.
	bool is_reply;
	// To one host.
	bool is_unicast;
	// A field that the receiver ignores has another value than Linux gives it.
	bool has_data;
} __attribute__((aligned(8)));

static __always_inline bool same_mac(const __u8 *one, const __u8 *other)
{
	__u8 difference = 0;

	for (int i = 0; i < ETH_ALEN; i++)
		difference |= one[i] ^ other[i];
	return !difference;
}

static __always_inline bool is_zero(const __u8 *bytes, int count)
{
	__u8 any = 0;

	for (int i = 0; i < count; i++)
		any |= bytes[i];
	return !any;
}

static __always_inline void map_v4(__u8 *mapped, const __u8 *v4)
{
	__builtin_memset(mapped, 0, 10);
	mapped[10] = mapped[11] = 0xff;
	__builtin_memcpy(mapped + 12, v4, 4);
}

// fe80::/10, RFC 4291 section 2.5.6.
static __always_inline bool is_link_local(const __u8 *address)
{
	return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

static __always_inline bool is_multicast(const __u8 *address)
{
	return address[0] == 0xff;
}

// Addresses that no router forwards to: link-local, and multicast with link scope (RFC 4291
// section 2.7).
static __always_inline bool has_link_scope(const __u8 *address)
{
	return is_link_local(address) || (is_multicast(address) && (address[1] & 0x0f) == 0x02);
}

static __always_inline bool is_broadcast(const __u8 *mac)
{
	__u8 all = 0xff;

	for (int i = 0; i < ETH_ALEN; i++)
		all &= mac[i];
	return all == 0xff;
}

// Parses the frame at `data`. False: not ARP of the format above.
static __always_inline bool parse_arp(void *data, void *end, struct neigh_msg *msg)
{
	struct ethhdr *eth = data;
	struct arp *arp = data + sizeof(struct ethhdr);
	__u8 *rest = (__u8 *)(arp + 1);

	if ((void *)rest > end || end - data > ETH_ZLEN)
		return false;
	if (arp->htype != bpf_htons(ARP_HTYPE_ETHERNET) || arp->ptype != bpf_htons(ETH_P_IP) ||
	    arp->hlen != ETH_ALEN || arp->plen != 4 ||
	    (arp->op != bpf_htons(ARP_REQUEST) && arp->op != bpf_htons(ARP_REPLY)))
		return false;
	for (__u32 i = 0; i < ETH_ZLEN - ARP_LEN; i++) {
		if ((void *)(rest + i + 1) > end)
			break;
		if (rest[i])
			return false;
	}
	msg->is_nd = false;
	msg->is_reply = arp->op == bpf_htons(ARP_REPLY);
	msg->is_unicast = !(eth->h_dest[0] & 1);
	// A request has none, an announcement of iputils' arping the sender's or broadcast.
	msg->has_data = !is_zero(arp->target_mac, ETH_ALEN) && !is_broadcast(arp->target_mac) &&
			!same_mac(arp->target_mac, arp->sender_mac) &&
			!same_mac(arp->target_mac, eth->h_dest);
	map_v4(msg->source, arp->sender_ip);
	map_v4(msg->destination, arp->target_ip);
	map_v4(msg->target, arp->target_ip);
	map_v4(msg->claimed, !msg->is_reply && is_zero(arp->sender_ip, 4) ? arp->target_ip :
									    arp->sender_ip);
	__builtin_memcpy(msg->mac, arp->sender_mac, ETH_ALEN);
	return true;
}

// Parses the options of ND, which end with the frame.
static __always_inline bool parse_nd_options(void *at, void *end, struct neigh_msg *msg)
{
	for (int i = 0; i < ND_OPTIONS_MAX; i++) {
		struct nd_option *option = at;

		if (at == end)
			return true;
		if ((void *)(option + 1) > end || option->length != 1)
			return false;
		if (option->type == ND_SOURCE_LINK_LAYER || option->type == ND_TARGET_LINK_LAYER) {
			// Two options with different addresses are a contradiction.
			if (!is_zero(msg->mac, ETH_ALEN) && !same_mac(msg->mac, option->mac))
				return false;
			__builtin_memcpy(msg->mac, option->mac, ETH_ALEN);
		} else if (option->type == ND_NONCE) {
			msg->has_data |= !is_zero(msg->source, 16);
		} else {
			return false;
		}
		at = option + 1;
	}
	return at == end;
}

// Whether the ICMPv6 checksum is right (RFC 4443 section 2.3), of at most NEIGHBOUR_MAX bytes.
static __always_inline bool is_checksum_right(const struct ipv6hdr *ip, const void *end)
{
	const __be16 *addresses = (const __be16 *)&ip->saddr;
	const __be16 *message = (const __be16 *)(ip + 1);
	__u32 sum = bpf_ntohs(ip->payload_len) + IPPROTO_ICMPV6;

	for (__u32 i = 0; i < 16; i++)
		sum += bpf_ntohs(addresses[i]);
	// All messages have an even length.
	for (__u32 i = 0; i < (NEIGHBOUR_MAX - ND_MIN) / 2; i++) {
		if ((const void *)(message + i + 1) > end)
			break;
		sum += bpf_ntohs(message[i]);
	}
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

// Whether a field that the receiver ignores has another value than Linux gives it; the options are
// checked elsewhere.
static __always_inline bool has_data(const struct ethhdr *eth, const struct ipv6hdr *ip,
				     const struct nd *nd, const void *end)
{
	__be32 first = *(const __be32 *)ip;
	__be32 reserved = nd->flags;
	const __u8 *group = ip->daddr.s6_addr;

	// Router, solicited, override.
	if (nd->type == ND_NEIGHBOUR_ADVERTISEMENT)
		reserved &= ~bpf_htonl(0xe0000000);
	// Version 6, traffic class 0 or that of network control (RFC 2474 section 4.2.2.2), flow
	// label 0.
	if (reserved || (first != bpf_htonl(0x60000000) && first != bpf_htonl(0x6c000000)))
		return true;
	// RFC 2464 section 7.
	if (is_multicast(group) &&
	    (eth->h_dest[0] != 0x33 || eth->h_dest[1] != 0x33 || eth->h_dest[2] != group[12] ||
	     eth->h_dest[3] != group[13] || eth->h_dest[4] != group[14] ||
	     eth->h_dest[5] != group[15]))
		return true;
	if (!is_multicast(group) && (eth->h_dest[0] & 1))
		return true;
	return !is_checksum_right(ip, end);
}

// Parses the frame at `data`, of Ethernet type IPv6. False: not ND of the format above.
static __always_inline bool parse_nd(void *data, void *end, struct neigh_msg *msg)
{
	struct ipv6hdr *ip = data + sizeof(struct ethhdr);
	struct nd *nd = (struct nd *)(ip + 1);
	void *options = &nd->target;

	if (options > end || end - data > (long)NEIGHBOUR_MAX)
		return false;
	if (ip->version != 6 || ip->nexthdr != IPPROTO_ICMPV6 || ip->hop_limit != ND_HOP_LIMIT ||
	    bpf_ntohs(ip->payload_len) != end - data - (long)ND_MIN || nd->code != 0)
		return false;
	__builtin_memcpy(msg->source, &ip->saddr, 16);
	__builtin_memcpy(msg->destination, &ip->daddr, 16);
	__builtin_memset(msg->mac, 0, ETH_ALEN);
	msg->is_nd = true;
	msg->is_reply = nd->type == ND_NEIGHBOUR_ADVERTISEMENT;
	msg->is_unicast = !is_multicast(msg->destination);
	msg->has_data = has_data(data, ip, nd, end);
	__builtin_memset(msg->target, 0, 16);
	if (is_multicast(msg->destination) && !has_link_scope(msg->destination))
		return false;
	if (nd->type == ND_ROUTER_SOLICITATION) {
		__builtin_memcpy(msg->claimed, &ip->saddr, 16);
		return parse_nd_options(options, end, msg);
	}
	options = nd + 1;
	if (options > end)
		return false;
	if (nd->type == ND_NEIGHBOUR_SOLICITATION && !is_zero(msg->source, 16))
		__builtin_memcpy(msg->claimed, &ip->saddr, 16);
	else if (nd->type == ND_NEIGHBOUR_SOLICITATION || nd->type == ND_NEIGHBOUR_ADVERTISEMENT)
		__builtin_memcpy(msg->claimed, nd->target, 16);
	else
		return false;
	__builtin_memcpy(msg->target, nd->target, 16);
	return parse_nd_options(options, end, msg);
}

// Whether the pod has the address: its own, or the link-local one made of its MAC address.
static __always_inline bool is_own(__u32 ifindex, const struct pod *pod, const __u8 *address)
{
	struct link_address key = { .ifindex = ifindex };
	const __u8 *mac = pod->mac;

	if (is_link_local(address))
		return address[1] == 0x80 && is_zero(address + 2, 6) &&
		       address[8] == (mac[0] ^ 2) && address[9] == mac[1] &&
		       address[10] == mac[2] && address[11] == 0xff && address[12] == 0xfe &&
		       address[13] == mac[3] && address[14] == mac[4] && address[15] == mac[5];
	__builtin_memcpy(key.address, address, 16);
	return bpf_map_lookup_elem(&ADDRESSES, &key);
}

// Whether the source and claimed addresses of a message are those of the pod that sent it.
static __always_inline bool is_sender_valid(__u32 ifindex, const struct pod *pod,
					    const __u8 *source_mac,
					    const struct neigh_msg *msg)
{
	if (!same_mac(source_mac, pod->mac))
		return false;
	if (msg->is_nd) {
		bool unspecified = is_zero(msg->source, 16);

		if (!is_zero(msg->mac, ETH_ALEN) && !same_mac(msg->mac, pod->mac))
			return false;
		if (!unspecified && !is_own(ifindex, pod, msg->source))
			return false;
		// A router solicitation may claim nothing.
		return (unspecified && is_zero(msg->claimed, 16)) ||
		       is_own(ifindex, pod, msg->claimed);
	}
	return same_mac(msg->mac, pod->mac) && is_own(ifindex, pod, msg->claimed);
}

// Whether no router would forward a pod's message.
static __always_inline bool is_link_scoped(__u32 ifindex, const struct neigh_msg *msg)
{
	struct link_address key = { .ifindex = ifindex };

	if (!msg->is_nd || has_link_scope(msg->destination))
		return true;
	__builtin_memcpy(key.address, msg->destination, 16);
	return bpf_map_lookup_elem(&NEIGHBOURS, &key);
}

// Records the sender of ARP or ND to a pod, so that the pod may send ND to it, and may answer its
// request if that is for an address of the pod.
static __always_inline void learn_neighbour(__u32 ifindex, const struct pod *pod,
					    const struct neigh_msg *msg)
{
	struct link_address key = { .ifindex = ifindex };
	bool is_request = !msg->is_reply && is_own(ifindex, pod, msg->target);
	__u32 *requests, one = is_request;

	if (msg->is_nd && is_zero(msg->source, 16))
		return;
	// Others get no ND from the pod for what they sent, or by link scope.
	if (!is_request && (!msg->is_nd || has_link_scope(msg->source)))
		return;
	__builtin_memcpy(key.address, msg->source, 16);
	requests = bpf_map_lookup_elem(&NEIGHBOURS, &key);
	if (!requests)
		bpf_map_update_elem(&NEIGHBOURS, &key, &one, BPF_ANY);
	else if (is_request && *requests < REQUESTS_MAX)
		__sync_fetch_and_add(requests, 1);
}

// Whether a pod's message is not a unicast reply, or answers a request; then that is answered.
static __always_inline bool is_requested(__u32 ifindex, const struct neigh_msg *msg)
{
	struct link_address key = { .ifindex = ifindex };
	__u32 *requests;

	if (!msg->is_reply || !msg->is_unicast)
		return true;
	__builtin_memcpy(key.address, msg->destination, 16);
	requests = bpf_map_lookup_elem(&NEIGHBOURS, &key);
	if (!requests || !*requests)
		return false;
	__sync_fetch_and_add(requests, -1);
	return true;
}

// Accounts for one frame of the link in this slot; false if it exceeds the rate. One CPU at a time
// receives the packets of a link, so reading and writing the times needs no atomic operation.
static __always_inline bool ratelimit_allows(__u32 slot, bool is_unicast_reply)
{
	struct neighbour_times *times = bpf_map_lookup_elem(&NEIGHBOUR_TIMES, &slot);

	if (!times)
		return false;
	if (is_unicast_reply)
		return is_within(&times->reply, REPLY_RATE, REPLY_BURST);
	return is_within(&times->other, NEIGHBOUR_RATE, NEIGHBOUR_BURST);
}

// The same for one frame to the pod of the link in this slot. Several CPUs may transmit on a link
// at once; one that overwrites the time of another lets one more frame pass.
static __always_inline bool ratelimit_allows_to_pod(__u32 slot, bool is_unicast_reply,
						    bool is_of_node)
{
	struct to_pod_times *times = bpf_map_lookup_elem(&TO_POD_TIMES, &slot);

	if (!times)
		return false;
	// First, so that replies of other pods don't use up the limit of the node's replies.
	if (is_of_node)
		return is_within(&times->of_node, REPLY_RATE, REPLY_BURST);
	return is_within(is_unicast_reply ? &times->reply : &times->other, REPLY_RATE, REPLY_BURST);
}
