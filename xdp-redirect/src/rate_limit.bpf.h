// SPDX-License-Identifier: Apache-2.0
//
// Rate limits by theoretical arrival times (GCRA).

#pragma once

#include <stdbool.h>

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#define NANOSECONDS 1000000000ULL

// Accounts for one frame at the rate limit; false if it exceeds it. `time` is the theoretical
// arrival time of the next frame, ns.
static __always_inline bool is_within(__u64 *time, __u64 rate, __u64 burst)
{
	__u64 interval = NANOSECONDS / rate;
	__u64 now = bpf_ktime_get_ns();
	__u64 tolerance = (burst - 1) * interval;
	__u64 earliest = now > tolerance ? now - tolerance : 0;

	if (*time < earliest)
		*time = earliest;
	if (*time > now)
		return false;
	*time += interval;
	return true;
}
