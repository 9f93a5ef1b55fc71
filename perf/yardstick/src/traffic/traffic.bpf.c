// SPDX-License-Identifier: Apache-2.0
//
// The three programs of the traffic module:
//
//   spray     live frames of BPF_PROG_TEST_RUN, sent out of the netdev they claim to come from
//   arrivals  at the ingress of the receiving pod: counts the UDP that gets there, and drops it
//   hand_over everything that a netdev receives, to the one AF_XDP socket bound to it

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// The start of the frames that src/traffic/frame.rs builds.
struct packet {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__be16 balance;
} __attribute__((packed));

// How many flows, and the source port of the first: set by the loader.
const volatile __u32 flows = 1;
const volatile __u16 first_port = 0;
// Frames sprayed so far. One core sprays, so nothing is lost without an atomic.
__u32 sprayed = 0;

SEC("xdp")
int spray(struct xdp_md *ctx)
{
	struct packet *packet = (void *)(long)ctx->data;
	__u16 flow;

	if ((void *)(packet + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	flow = sprayed++ % flows;
	packet->udp.source = bpf_htons(first_port + flow);
	// What the port gains the payload loses: the checksum stays as it was built.
	packet->balance = bpf_htons(0xffff - flow);
	// For live frames: out through ndo_xdp_xmit of ingress_ifindex, to the veth's other end.
	return XDP_TX;
}

#define MEASURED 0
#define OTHER 1

// The destination port of what is measured: set by the loader.
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
	// Dropped here it costs the receiver least, and nobody answers "port unreachable".
	return TC_ACT_SHOT;
}

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} SOCKET SEC(".maps");

SEC("xdp.frags")
int hand_over(struct xdp_md *ctx)
{
	return bpf_redirect_map(&SOCKET, ctx->rx_queue_index, XDP_DROP);
}

// No GPL-only helper is called, so the programs carry the project's own licence.
char _license[] SEC("license") = "Apache-2.0";
