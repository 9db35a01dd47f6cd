// The links between the host and the devices of a cluster on one machine: a veth pair into each device's own
// network namespace, slowed by the kernel's token bucket filter at both ends.
//
// A namespace has no name: it lives as long as the device's process, and its link goes with it, so that
// nothing is left behind however that process ends. Device K of network N has 10.231.N.(4K+2), the host's end
// of its link ...(4K+1). All functions need root except where said otherwise; none is thread-safe (they
// fork).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace godwit::cli {

struct LinkPlan {
  std::string interface;  // The host's end.
  std::string peer;       // The device's end.
  std::string host_address;
  std::string device_address;
  std::uint64_t mbps = 0;
};

// Why this process cannot make network namespaces with links here; nothing when it can. Needs no root.
std::optional<std::string> WhyNoNamespaces();

// A number N for which this machine has neither an address in 10.231.N.0/24 nor in 127.231.N.0/24.
Result<int> PickNetwork();

LinkPlan PlanLink(int network, int index, std::uint64_t mbps);

// Creates the pair, moves the device's end into the network namespace of `process`, and brings the host's end
// up. On failure the pair is gone again.
Status CreateLink(const LinkPlan& link, pid_t process);
// To be called inside the namespace after CreateLink: brings the device's end and its loopback up.
Status ConfigureInside(const LinkPlan& link);
// Slows one end; in whichever namespace the caller is. kUnsupported where the kernel has no token bucket
// filter.
Status Shape(const std::string& interface, std::uint64_t mbps);
// Removing what is not there is no error.
void RemoveLink(const std::string& interface);

// Makes the machine forward packets between its interfaces, as devices that talk to each other need, and
// takes that back once no link of any cluster is left. What it was before is kept for all clusters in one
// marker file.
void HoldForwarding();
void ReleaseForwarding();

// Gives the calling process a mount namespace of its own in which, of `state_folder`, only `own_folder` below
// it and the file `token_file` are left: devices share nothing by accident. /sys shows the interfaces of its
// network namespace, where it may be mounted.
Status HideOtherDevices(const std::string& state_folder, const std::string& own_folder,
                        const std::string& token_file);

}  // namespace godwit::cli
