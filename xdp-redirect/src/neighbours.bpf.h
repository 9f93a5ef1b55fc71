// SPDX-License-Identifier: Apache-2.0
//
// ARP and neighbour discovery (ND): the only frames between a pod and the kernel, or a bridge, that
// do not pass through the workers. One rule for both directions:
//
//   ARP  Untagged. A request or reply for IPv4 over Ethernet (RFC 826): 28 bytes, and behind them
//        nothing but zeros up to the least length of an Ethernet frame.
//   ND   Untagged. A router solicitation, neighbour solicitation or neighbour advertisement
//        (RFC 4861) directly behind the IPv6 header, with hop limit 255, which proves that the
//        sender is on the link (RFC 5082). At most two options of 8 bytes each: source or target
//        link-layer address, or a nonce (RFC 7527). Nothing behind them. No group address but
//        of link scope.
//
// From a pod, moreover:
//   - Who it says it is must be true: MAC address and addresses are the pod's. Its link-local IPv6
//     address is the one made of its MAC address (RFC 4291 appendix A). ARP probes come from
//     0.0.0.0, duplicate address detection from `::`. So a pod can't enter others into a neighbour
//     table.
//   - An IPv6 destination of wider than link scope is one from which ND came to this pod before:
//     otherwise a node that forwards IPv6 might carry the message further.
//   - NEIGHBOUR_RATE frames a second, NEIGHBOUR_BURST at once; more are dropped.
//
// What looks like ND and does not follow the rule is IPv6 like any other, and policy decides.

#pragma once

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define NEIGHBOUR_RATE 100ULL
#define NEIGHBOUR_BURST 200ULL
#define NANOSECONDS 1000000000ULL

#define ARP_HTYPE_ETHERNET 1
#define ARP_REQUEST 1
#define ARP_REPLY 2

// Router advertisements (134) and redirects (137) are left out: no pod is a router, and a node's
// kernel might believe one (CVE-2020-10749).
#define ND_ROUTER_SOLICITATION 133
#define ND_NEIGHBOUR_SOLICITATION 135
#define ND_NEIGHBOUR_ADVERTISEMENT 136
#define ND_HOP_LIMIT 255

#define ND_SOURCE_LINK_LAYER 1
#define ND_TARGET_LINK_LAYER 2
#define ND_NONCE 14
#define ND_OPTIONS_MAX 2

// Frames that the programs drop, or count, by reason. src/frame_drops.rs is the same list.
enum refusal {
	REFUSE_NEIGHBOUR_RATE,
	REFUSE_NEIGHBOUR_SPOOFED,
	REFUSE_NEIGHBOUR_NOT_READY,
	REFUSE_NOT_IP,
	REFUSE_TO_POD_NOT_IP,
	REFUSE_TO_POD_TAGGED,
	REFUSE_TO_POD_MULTICAST,
	REFUSE_TO_POD_NOT_READY,
	REFUSE_TO_POD_OTHER_MAC,
	REFUSE_TO_POD_NO_HOST_LINK,
	REFUSE_TO_NODE_TUNNEL,
	REFUSALS,
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REFUSALS);
	__type(key, __u32);
	__type(value, struct tally);
} REFUSED SEC(".maps");

struct pod {
	__u8 mac[ETH_ALEN];
	__u8 pad[2];
};

// ifindex of the host's end -> the pod behind it, while it is ready. The loader sets the size.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pod);
} PODS SEC(".maps");

// An address at a link; IPv4 as IPv4-mapped IPv6.
struct place {
	__u32 ifindex;
	__u8 address[16];
};

// The pods' own addresses. The loader sets the size.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct place);
	__type(value, __u8);
} ADDRESSES SEC(".maps");

// IPv6 addresses that ND came from, on its way to a pod. When it is full the oldest ones yield: the
// pod asks again by multicast.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct place);
	__type(value, __u8);
} HEARD SEC(".maps");

// slot of the link -> time in ns by which the frames that passed would have come at the rate
// allowed. The loader sets the size.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} NEIGHBOUR_TIMES SEC(".maps");

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
// The longest frame that follows the rule.
#define NEIGHBOUR_MAX (ND_MIN + sizeof(struct nd) + ND_OPTIONS_MAX * sizeof(struct nd_option))

// What a frame of ARP or ND says of itself.
struct neighbour {
	// An address that the sender claims to have: of ARP and solicitations the one it sends from,
	// of advertisements the one it tells of.
	__u8 claimed[16];
	// ND only.
	__u8 source[16];
	__u8 destination[16];
	// The MAC address told of, if there is one; else all zeros.
	__u8 mac[ETH_ALEN];
	bool is_nd;
} __attribute__((aligned(8)));

static __always_inline int refuse(enum refusal why, __u32 bytes, int verdict)
{
	__u32 index = why;
	struct tally *tally = bpf_map_lookup_elem(&REFUSED, &index);

	if (tally) {
		tally->packets++;
		tally->bytes += bytes;
	}
	return verdict;
}

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

// Addresses that no router forwards to: link-local ones and multicast of link scope (RFC 4291
// section 2.7).
static __always_inline bool has_link_scope(const __u8 *address)
{
	return is_link_local(address) || (is_multicast(address) && (address[1] & 0x0f) == 0x02);
}

// Whether the frame at `data` is ARP by the rule.
static __always_inline bool parse_arp(void *data, void *end, struct neighbour *said)
{
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
	said->is_nd = false;
	map_v4(said->claimed, arp->sender_ip);
	__builtin_memcpy(said->mac, arp->sender_mac, ETH_ALEN);
	return true;
}

// Reads the options of ND, which reach to the end of the frame.
static __always_inline bool parse_nd_options(void *at, void *end, struct neighbour *said)
{
	for (int i = 0; i < ND_OPTIONS_MAX; i++) {
		struct nd_option *option = at;

		if (at == end)
			return true;
		if ((void *)(option + 1) > end || option->length != 1)
			return false;
		if (option->type == ND_SOURCE_LINK_LAYER || option->type == ND_TARGET_LINK_LAYER) {
			// Two that differ can't both be true.
			if (!is_zero(said->mac, ETH_ALEN) && !same_mac(said->mac, option->mac))
				return false;
			__builtin_memcpy(said->mac, option->mac, ETH_ALEN);
		} else if (option->type != ND_NONCE) {
			return false;
		}
		at = option + 1;
	}
	return at == end;
}

// Whether the frame at `data`, of Ethernet type IPv6, is ND by the rule.
static __always_inline bool parse_nd(void *data, void *end, struct neighbour *said)
{
	struct ipv6hdr *ip = data + sizeof(struct ethhdr);
	struct nd *nd = (struct nd *)(ip + 1);
	void *options = &nd->target;

	if (options > end || end - data > (long)NEIGHBOUR_MAX)
		return false;
	if (ip->version != 6 || ip->nexthdr != IPPROTO_ICMPV6 || ip->hop_limit != ND_HOP_LIMIT ||
	    bpf_ntohs(ip->payload_len) != end - data - (long)ND_MIN || nd->code != 0)
		return false;
	__builtin_memcpy(said->source, &ip->saddr, 16);
	__builtin_memcpy(said->destination, &ip->daddr, 16);
	__builtin_memset(said->mac, 0, ETH_ALEN);
	said->is_nd = true;
	if (is_multicast(said->destination) && !has_link_scope(said->destination))
		return false;
	if (nd->type == ND_ROUTER_SOLICITATION) {
		__builtin_memcpy(said->claimed, &ip->saddr, 16);
		return parse_nd_options(options, end, said);
	}
	options = nd + 1;
	if (options > end)
		return false;
	if (nd->type == ND_NEIGHBOUR_SOLICITATION)
		__builtin_memcpy(said->claimed, &ip->saddr, 16);
	else if (nd->type == ND_NEIGHBOUR_ADVERTISEMENT)
		__builtin_memcpy(said->claimed, nd->target, 16);
	else
		return false;
	return parse_nd_options(options, end, said);
}

// Whether the pod has the address: its own, or the link-local one made of its MAC address.
static __always_inline bool is_own(__u32 ifindex, const struct pod *pod, const __u8 *address)
{
	struct place place = { .ifindex = ifindex };
	const __u8 *mac = pod->mac;

	if (is_link_local(address))
		return address[1] == 0x80 && is_zero(address + 2, 6) &&
		       address[8] == (mac[0] ^ 2) && address[9] == mac[1] &&
		       address[10] == mac[2] && address[11] == 0xff && address[12] == 0xfe &&
		       address[13] == mac[3] && address[14] == mac[4] && address[15] == mac[5];
	__builtin_memcpy(place.address, address, 16);
	return bpf_map_lookup_elem(&ADDRESSES, &place);
}

// Whether a pod may say this of itself.
static __always_inline bool is_true(__u32 ifindex, const struct pod *pod, const __u8 *source_mac,
				    const struct neighbour *said)
{
	if (!same_mac(source_mac, pod->mac))
		return false;
	if (said->is_nd) {
		bool unspecified = is_zero(said->source, 16);

		if (!is_zero(said->mac, ETH_ALEN) && !same_mac(said->mac, pod->mac))
			return false;
		if (!unspecified && !is_own(ifindex, pod, said->source))
			return false;
		return is_zero(said->claimed, 16) || is_own(ifindex, pod, said->claimed);
	}
	if (!same_mac(said->mac, pod->mac))
		return false;
	return is_zero(said->claimed + 12, 4) || is_own(ifindex, pod, said->claimed);
}

// Whether no router would carry a pod's message further.
static __always_inline bool stays_on_link(__u32 ifindex, const struct neighbour *said)
{
	struct place place = { .ifindex = ifindex };

	if (!said->is_nd || has_link_scope(said->destination))
		return true;
	__builtin_memcpy(place.address, said->destination, 16);
	return bpf_map_lookup_elem(&HEARD, &place);
}

// Notes whom a pod may answer, or ask again, although the address has more than link scope.
static __always_inline void note_heard(__u32 ifindex, const struct neighbour *said)
{
	struct place place = { .ifindex = ifindex };
	__u8 one = 1;

	if (!said->is_nd || has_link_scope(said->claimed) || is_multicast(said->claimed) ||
	    is_zero(said->claimed, 16))
		return;
	__builtin_memcpy(place.address, said->claimed, 16);
	bpf_map_update_elem(&HEARD, &place, &one, BPF_ANY);
}

// Takes one frame from what the link in this slot may send. A link's packets are received by one
// processor at a time, so that nothing is lost between reading and writing.
static __always_inline bool is_within_rate(__u32 slot)
{
	const __u64 interval = NANOSECONDS / NEIGHBOUR_RATE;
	const __u64 burst = (NEIGHBOUR_BURST - 1) * interval;
	__u64 now = bpf_ktime_get_ns();
	__u64 *time = bpf_map_lookup_elem(&NEIGHBOUR_TIMES, &slot);
	__u64 earliest = now > burst ? now - burst : 0;

	if (!time)
		return false;
	if (*time < earliest)
		*time = earliest;
	if (*time > now)
		return false;
	*time += interval;
	return true;
}
