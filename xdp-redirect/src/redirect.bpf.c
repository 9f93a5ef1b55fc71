// SPDX-License-Identifier: Apache-2.0
//
// Steers IP traffic of a link to the AF_XDP socket of the worker that owns the flow.
//
//   a link that is not in LINKS         -> XDP_DROP
//   ARP and ND, see neighbours.bpf.h    -> XDP_PASS: the kernel answers or bridges it
//   other frames that are not IP        -> XDP_DROP, see drops.bpf.h
//   IP                                  -> XSKS[slot * workers + worker]; XDP_DROP if it is empty
//   IP that ends inside its headers     -> worker 0, which counts it as malformed
//
// guard.bpf.h handles the opposite direction. Only the first buffer of a packet is read: veth puts
// at least 3 kB there, more than the headers that are parsed.

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "drops.bpf.h"
#include "guard.bpf.h"
#include "neighbours.bpf.h"
#include "tunnels.bpf.h"

#define MAX_VLAN_TAGS 2
// The same limit as in the workers.
#define MAX_EXTENSION_HEADERS 8
// Ports from this one on are ephemeral. The same constant as in hash.rs.
#define FIRST_EPHEMERAL_PORT 32768

// "M flag" and the 13 bits of fragment offset of an IPv6 fragment header, RFC 8200 section 4.5.
#define IPV6_FRAGMENT 0xfff9

// Set by the loader, a constant to the verifier.
const volatile __u32 workers = 1;

// slot * workers + worker -> AF_XDP socket. The loader sets the size.
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} XSKS SEC(".maps");

struct cursor {
	void *pos;
	void *end;
};

struct vlan_tag {
	__be16 tci;
	__be16 ethertype;
};

struct extension_header {
	__u8 next;
	__u8 length; // in units of 8 bytes, without the first 8; AH: units of 4, without 8
};

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

struct ports {
	__be16 source;
	__be16 dest;
};

// An address as a 128-bit number, IPv4 as IPv4-mapped IPv6.
struct address {
	__u64 high;
	__u64 low;
};

struct flow {
	struct address src;
	struct address dst;
	__u16 sport;
	__u16 dport;
	__u8 protocol;
};

// The next `size` bytes, or NULL if the frame ends before.
static __always_inline void *pull(struct cursor *c, __u32 size)
{
	void *at = c->pos;

	if (at + size > c->end)
		return NULL;
	c->pos = at + size;
	return at;
}

// MurmurHash3's 64-bit finalizer.
static __always_inline __u64 mix(__u64 x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	x ^= x >> 33;
	return x;
}

static __always_inline __u64 hash_endpoint(const struct address *address, __u16 port)
{
	return mix(address->high ^ mix(address->low ^ (__u64)port << 48));
}

// src/hash.rs is the same function, and says why; a test compares them.
static __always_inline __u32 flow_hash(const struct flow *f)
{
	bool from_client = f->sport >= FIRST_EPHEMERAL_PORT;
	bool to_client = f->dport >= FIRST_EPHEMERAL_PORT;
	__u64 ends = 0;

	// The sum is symmetric: both directions of a flow have the same hash.
	if (from_client || !to_client)
		ends += hash_endpoint(&f->src, f->sport);
	if (to_client || !from_client)
		ends += hash_endpoint(&f->dst, f->dport);
	return mix(ends + f->protocol) >> 32;
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

// Parses the ports at the cursor. False: the frame ends before.
static __always_inline bool parse_ports(struct cursor *c, __u8 protocol, struct flow *f)
{
	struct ports *ports = pull(c, sizeof(*ports));

	if (!ports)
		return false;
	f->protocol = protocol;
	f->sport = bpf_ntohs(ports->source);
	f->dport = bpf_ntohs(ports->dest);
	return true;
}

static __always_inline struct address from_v4(__be32 address)
{
	return (struct address){ .low = 0xffff00000000ULL | bpf_ntohl(address) };
}

static __always_inline struct address from_v6(const struct in6_addr *address)
{
	const __be32 *word = address->in6_u.u6_addr32;

	return (struct address){
		.high = (__u64)bpf_ntohl(word[0]) << 32 | bpf_ntohl(word[1]),
		.low = (__u64)bpf_ntohl(word[2]) << 32 | bpf_ntohl(word[3]),
	};
}

// False: malformed.
static __always_inline bool parse_ipv4(struct cursor *c, struct flow *f)
{
	struct iphdr *ip = pull(c, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return false;
	f->src = from_v4(ip->saddr);
	f->dst = from_v4(ip->daddr);
	if (!has_ports(ip->protocol) || ip->frag_off & bpf_htons(IPV4_FRAGMENT))
		return true;
	c->pos += ip->ihl * 4 - sizeof(*ip);
	return parse_ports(c, ip->protocol, f);
}

// False: malformed. Fragments, ESP and longer chains of headers are hashed by their addresses. A
// packet whose ports the workers parse must be hashed by these ports, or packets of one flow would
// reach two workers. That includes "atomic" fragments, which are whole packets (RFC 6946).
static __always_inline bool parse_ipv6(struct cursor *c, struct ipv6hdr *ip, struct flow *f)
{
	__u8 next = ip->nexthdr;

	f->src = from_v6(&ip->saddr);
	f->dst = from_v6(&ip->daddr);
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		struct extension_header *header;

		if (next == IPPROTO_FRAGMENT) {
			struct fragment_header *fragment = pull(c, sizeof(*fragment));

			if (!fragment)
				return false;
			next = fragment->next;
			if (fragment->offset & bpf_htons(IPV6_FRAGMENT))
				return true;
			continue;
		}
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_DSTOPTS && next != IPPROTO_AH)
			break;
		header = pull(c, sizeof(*header));
		if (!header)
			return false;
		if (next == IPPROTO_AH)
			c->pos += (header->length + 2) * 4 - sizeof(*header);
		else
			c->pos += header->length * 8 + 8 - sizeof(*header);
		next = header->next;
	}
	return has_ports(next) ? parse_ports(c, next, f) : true;
}

enum frame_kind {
	FRAME_IP,
	FRAME_NEIGHBOUR,
	FRAME_OTHER,
};

// Classifies the frame. For IP, sets `hash` to that of the flow; it remains 0, for worker 0, if the
// frame is malformed.
static __always_inline enum frame_kind classify(struct cursor *c, struct neigh_msg *msg,
						__u32 *hash)
{
	void *frame = c->pos;
	struct ethhdr *eth = pull(c, sizeof(*eth));
	struct flow f = {};
	struct ipv6hdr *ip;
	__be16 ethertype;

	if (!eth)
		return FRAME_OTHER;
	ethertype = eth->h_proto;
	if (ethertype == bpf_htons(ETH_P_ARP) && parse_arp(frame, c->end, msg) && !msg->has_data)
		return FRAME_NEIGHBOUR;
	if (ethertype == bpf_htons(ETH_P_IPV6) && parse_nd(frame, c->end, msg) && !msg->has_data)
		return FRAME_NEIGHBOUR;
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		struct vlan_tag *tag;

		if (ethertype != bpf_htons(ETH_P_8021Q) && ethertype != bpf_htons(ETH_P_8021AD))
			break;
		tag = pull(c, sizeof(*tag));
		if (!tag)
			return FRAME_IP;
		ethertype = tag->ethertype;
	}

	switch (ethertype) {
	case bpf_htons(ETH_P_IP):
		if (parse_ipv4(c, &f))
			*hash = flow_hash(&f);
		return FRAME_IP;
	case bpf_htons(ETH_P_IPV6):
		ip = pull(c, sizeof(*ip));
		if (ip && ip->version == 6 && parse_ipv6(c, ip, &f))
			*hash = flow_hash(&f);
		return FRAME_IP;
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
		// There may be IP after a third tag: the workers count the frame.
		return FRAME_IP;
	default:
		return FRAME_OTHER;
	}
}

// The XDP action for ARP or ND from a pod.
static __always_inline int neighbour(struct xdp_md *ctx, __u32 slot, const struct neigh_msg *msg)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	__u32 ifindex = ctx->ingress_ifindex;
	struct pod *pod = bpf_map_lookup_elem(&PODS, &ifindex);

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	if (!pod)
		return drop_from_pod(ctx, DROP_NEIGHBOUR_NOT_READY, slot);
	if (!is_sender_valid(ifindex, pod, eth->h_source, msg))
		return drop_from_pod(ctx, DROP_NEIGHBOUR_SPOOFED, slot);
	if (!is_requested(ifindex, msg) || !ratelimit_allows(slot, msg->is_reply && msg->is_unicast))
		return drop_from_pod(ctx, DROP_NEIGHBOUR_RATE, slot);
	return XDP_PASS;
}

SEC("xdp.frags")
int redirect(struct xdp_md *ctx)
{
	struct cursor c = { (void *)(long)ctx->data, (void *)(long)ctx->data_end };
	__u32 ifindex = ctx->ingress_ifindex;
	struct neigh_msg msg = {};
	__u32 hash = 0;
	__u32 *slot;
	__u32 worker;
	enum frame_kind kind;

	slot = bpf_map_lookup_elem(&LINKS, &ifindex);
	if (!slot)
		return XDP_DROP;
	kind = classify(&c, &msg, &hash);
	if (kind == FRAME_OTHER)
		return drop_from_pod(ctx, DROP_NOT_IP, *slot);
	if (kind == FRAME_NEIGHBOUR && is_link_scoped(ifindex, &msg))
		return neighbour(ctx, *slot, &msg);
	worker = (__u64)hash * workers >> 32;
	return bpf_redirect_map(&XSKS, *slot * workers + worker, XDP_DROP);
}

// No GPL-only helper is called, so the program carries the project's own licence.
char _license[] SEC("license") = "Apache-2.0";
