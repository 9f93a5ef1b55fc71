// SPDX-License-Identifier: Apache-2.0
//
// Reasons of the BPF programs to drop a frame, and their counters.

#pragma once

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

// Why a program drops a frame. src/frame_drops.rs has the same list.
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
