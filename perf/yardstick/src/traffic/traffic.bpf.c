// SPDX-License-Identifier: Apache-2.0
//
// The three programs of the traffic module:
//
//   generate  live frames of BPF_PROG_TEST_RUN, sent on their ingress device
//   arrivals  at the ingress of the receiving pod: counts and drops UDP packets
//   redirect  all frames that a device receives, to the only AF_XDP socket bound to it

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Start of the frames that src/traffic/frame.rs builds.
struct packet {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__be16 compensation;
} __attribute__((packed));

// Number of flows, and source port of the first one: set by the loader.
const volatile __u32 flows = 1;
const volatile __u16 first_port = 0;
// Frames generated so far. Not atomic, because only one core generates.
__u32 generated = 0;

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	struct packet *packet = (void *)(long)ctx->data;
	__u16 flow;

	if ((void *)(packet + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	flow = generated++ % flows;
	packet->udp.source = bpf_htons(first_port + flow);
	// Compensates the port, so that the checksum stays the same.
	packet->compensation = bpf_htons(0xffff - flow);
	// For live frames: sent by ndo_xdp_xmit of ingress_ifindex, to the veth's other end.
	return XDP_TX;
}

#define MEASURED 0
#define OTHER 1

// Destination port of the measured flow: set by the loader.
const volatile __u16 measured_port = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} ARRIVED SEC(".maps");

SEC("classifier")
int arrivals(struct __sk_buff *skb)
{
	struct packet *packet = (void *)(long)skb->data;
	__u32 key = OTHER;
	__u64 *count;

	if ((void *)(packet + 1) > (void *)(long)skb->data_end ||
	    packet->eth.h_proto != bpf_htons(ETH_P_IP) || packet->ip.protocol != IPPROTO_UDP)
		return TC_ACT_UNSPEC;
	if (packet->udp.dest == bpf_htons(measured_port))
		key = MEASURED;
	count = bpf_map_lookup_elem(&ARRIVED, &key);
	if (count)
		(*count)++;
	// A drop here costs the receiver least, and prevents "port unreachable" answers.
	return TC_ACT_SHOT;
}

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} SOCKET SEC(".maps");

SEC("xdp.frags")
int redirect(struct xdp_md *ctx)
{
	return bpf_redirect_map(&SOCKET, ctx->rx_queue_index, XDP_DROP);
}

// No GPL-only helper is called, so the programs have the project's licence.
char _license[] SEC("license") = "Apache-2.0";
