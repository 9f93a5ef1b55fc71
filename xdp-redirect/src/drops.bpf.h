// SPDX-License-Identifier: Apache-2.0
//
// Dropped frames: the programs' reasons, a counter of each, and records for the agent.
//
// A record has the reason and the beginning of the frame. So that a flood neither fills the ring
// nor costs time, a link has at most RECORD_RATE records a second, and RECORD_BURST in a burst, of
// frames from its pod, and as many of frames to it. Drops without a record are counted: those
// beyond that rate, and those for which the ring has no room, for example while no agent runs.

#pragma once

#include <linux/bpf.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "rate_limit.bpf.h"

// From linux/socket.h.
#define AF_INET 2

#define RECORD_RATE 100ULL
#define RECORD_BURST 50ULL
// Bytes of a frame that its record has.
#define RECORD_DATA 128
// Where a VLAN tag is in a frame: after the two MAC addresses.
#define TAG_AT 12
// Bytes of the ring: a power of two, and a multiple of the page size. It has room for 1,638
// records: the bursts of 32 links.
#define RECORDS_SIZE (256 * 1024)

// Why a program drops a frame. `FrameDropReason` in dataplane/tables/src/drop_reason.rs has the
// same list.
enum drop_reason {
	DROP_NEIGHBOUR_RATE,
	DROP_NEIGHBOUR_SPOOFED,
	DROP_NEIGHBOUR_NOT_READY,
	DROP_NOT_IP,
	DROP_TO_POD_NOT_IP,
	DROP_TO_POD_TAGGED,
	DROP_TO_POD_MULTICAST,
	DROP_TO_POD_NOT_READY,
	DROP_TO_POD_OTHER_MAC,
	DROP_TO_POD_NO_HOST_LINK,
	DROP_TO_NODE_TUNNEL,
	DROP_TO_POD_NEIGHBOUR_RATE,
	NR_DROP_REASONS,
};

struct drop_count {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NR_DROP_REASONS);
	__type(key, __u32);
	__type(value, struct drop_count);
} DROP_COUNTS SEC(".maps");

// ifindex -> slot of the link. The loader sets the size.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} LINKS SEC(".maps");

// src/drop_records.rs reads it.
struct drop_record {
	__u64 time; // CLOCK_MONOTONIC, ns
	__u32 ifindex;
	__u32 slot; // 0, that of pg-host, if the link has none
	__u16 reason;
	__u16 captured; // bytes of `data`
	__u8 data[RECORD_DATA]; // the frame; of DROP_TO_NODE_TUNNEL, a struct datagram
	__u8 pad[4];
};

// What a program at the socket lookup knows of a packet. IPv4 addresses are IPv4-mapped.
struct datagram {
	struct in6_addr source;
	struct in6_addr destination;
	__be16 source_port;
	__be16 destination_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RECORDS_SIZE);
} DROP_RECORDS SEC(".maps");

// Drops without a record.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} RECORDS_LOST SEC(".maps");

// Theoretical arrival times of a link's next records, ns, for the rate limit.
struct record_times {
	__u64 from_pod;
	__u64 to_pod;
};

// slot of the link -> its times. The loader sets the size. All links without a slot share the times
// of pg-host.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct record_times);
} RECORD_TIMES SEC(".maps");

static __always_inline __u32 slot_of(__u32 ifindex)
{
	__u32 *slot = bpf_map_lookup_elem(&LINKS, &ifindex);

	return slot ? *slot : 0;
}

static __always_inline void count_drop(enum drop_reason reason, __u32 bytes)
{
	__u32 index = reason;
	struct drop_count *count = bpf_map_lookup_elem(&DROP_COUNTS, &index);

	if (count) {
		count->packets++;
		count->bytes += bytes;
	}
}

static __always_inline void count_lost(void)
{
	__u32 zero = 0;
	__u64 *lost = bpf_map_lookup_elem(&RECORDS_LOST, &zero);

	if (lost)
		++*lost;
}

// Begins a record; NULL if the rate limit of `time` is exceeded or the ring is full, which is
// counted. Several CPUs may transmit on a link at once; one that overwrites the time of another
// gets one more record.
static __always_inline struct drop_record *begin_record(enum drop_reason reason, __u32 slot,
							__u64 *time)
{
	struct drop_record *record = NULL;

	if (time && is_within(time, RECORD_RATE, RECORD_BURST))
		record = bpf_ringbuf_reserve(&DROP_RECORDS, sizeof(*record), 0);
	if (!record) {
		count_lost();
		return NULL;
	}
	record->time = bpf_ktime_get_ns();
	record->slot = slot;
	record->reason = reason;
	return record;
}

// Bytes of a frame that its record has. The result has 64 bits, or clang would extend a copy of it,
// whose bounds the verifier does not relate to the original.
static __always_inline __u64 captured_of(__u64 length)
{
	return length < RECORD_DATA ? length : RECORD_DATA;
}

// Counts and records a frame from a pod that is dropped. Returns the action.
static __noinline int drop_from_pod(struct xdp_md *ctx, enum drop_reason reason, __u32 slot)
{
	struct record_times *times = bpf_map_lookup_elem(&RECORD_TIMES, &slot);
	__u32 length = bpf_xdp_get_buff_len(ctx);
	struct drop_record *record;
	__u64 captured = captured_of(length);

	count_drop(reason, length);
	record = begin_record(reason, slot, times ? &times->from_pod : NULL);
	if (!record)
		return XDP_DROP;
	record->ifindex = ctx->ingress_ifindex;
	if (!captured || bpf_xdp_load_bytes(ctx, 0, record->data, captured))
		captured = 0;
	record->captured = captured;
	bpf_ringbuf_submit(record, 0);
	return XDP_DROP;
}

// Copies the beginning of a frame to a pod to `data`, with the outer VLAN tag, which the kernel
// keeps in the skb (net/core/skbuff.c, `skb_vlan_untag`). Returns the number of bytes.
static __always_inline __u16 capture_to_pod(struct __sk_buff *skb, __u8 *data)
{
	__u64 captured, rest;
	__be16 tag[2];

	if (!skb->vlan_present) {
		captured = captured_of(skb->len);
		if (!captured || bpf_skb_load_bytes(skb, 0, data, captured))
			return 0;
		return captured;
	}
	rest = captured_of(skb->len);
	if (rest <= TAG_AT)
		return 0;
	rest -= TAG_AT;
	if (rest > RECORD_DATA - TAG_AT - sizeof(tag))
		rest = RECORD_DATA - TAG_AT - sizeof(tag);
	tag[0] = skb->vlan_proto;
	tag[1] = bpf_htons(skb->vlan_tci);
	if (bpf_skb_load_bytes(skb, 0, data, TAG_AT) ||
	    bpf_skb_load_bytes(skb, TAG_AT, data + TAG_AT + sizeof(tag), rest))
		return 0;
	__builtin_memcpy(data + TAG_AT, tag, sizeof(tag));
	return TAG_AT + sizeof(tag) + rest;
}

// Counts and records a frame to a pod that is dropped. Returns the action.
static __noinline int drop_to_pod(struct __sk_buff *skb, enum drop_reason reason)
{
	__u32 slot = slot_of(skb->ifindex);
	struct record_times *times = bpf_map_lookup_elem(&RECORD_TIMES, &slot);
	struct drop_record *record;

	count_drop(reason, skb->len);
	record = begin_record(reason, slot, times ? &times->to_pod : NULL);
	if (!record)
		return TC_ACT_SHOT;
	record->ifindex = skb->ifindex;
	record->captured = capture_to_pod(skb, record->data);
	bpf_ringbuf_submit(record, 0);
	return TC_ACT_SHOT;
}

static __always_inline void map_v4_word(struct in6_addr *mapped, __be32 v4)
{
	mapped->in6_u.u6_addr32[0] = 0;
	mapped->in6_u.u6_addr32[1] = 0;
	mapped->in6_u.u6_addr32[2] = bpf_htonl(0xffff);
	mapped->in6_u.u6_addr32[3] = v4;
}

// Counts and records a packet from a pod to a socket of the node that is dropped. Returns the
// verdict. Neither the packet's link nor its length is known here.
static __noinline int drop_to_node(struct bpf_sk_lookup *ctx, enum drop_reason reason)
{
	__u32 slot = 0;
	struct record_times *times = bpf_map_lookup_elem(&RECORD_TIMES, &slot);
	struct drop_record *record;
	struct datagram *datagram;

	count_drop(reason, 0);
	record = begin_record(reason, slot, times ? &times->from_pod : NULL);
	if (!record)
		return SK_DROP;
	record->ifindex = ctx->ingress_ifindex;
	record->captured = sizeof(*datagram);
	datagram = (void *)record->data;
	if (ctx->family == AF_INET) {
		map_v4_word(&datagram->source, ctx->remote_ip4);
		map_v4_word(&datagram->destination, ctx->local_ip4);
	} else {
		for (int i = 0; i < 4; i++) {
			datagram->source.in6_u.u6_addr32[i] = ctx->remote_ip6[i];
			datagram->destination.in6_u.u6_addr32[i] = ctx->local_ip6[i];
		}
	}
	datagram->source_port = ctx->remote_port;
	datagram->destination_port = bpf_htons(ctx->local_port);
	bpf_ringbuf_submit(record, 0);
	return SK_DROP;
}
