// A device on another machine over UCX: over RDMA or TCP, whichever UCX finds between the two.
//
// UCX encrypts nothing, proves nobody's identity, and believes what arrives: it is for networks on which everybody is trusted. So nobody is
// served who was not invited: an invitation goes over a channel, between agents that proved who they are, and its ticket is good for one
// connection. Messages are those of wire.h; what a peer sends as one is checked as on every other way.
//
// UCX is loaded when it is first wanted: a process that does not want it has none of its code (docs/decisions/0027).
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "device/device.h"

namespace godwit::device {

inline constexpr std::size_t kUcxConnectionsMax = 64;             // That are served.
inline constexpr std::size_t kUcxUnsentBytesMax = 64 << 20;       // For a peer that does not take them: its connection ends, or requests are refused.
inline constexpr std::chrono::seconds kUcxInvitationTime{10};     // From Invite to the connection's first message.
inline constexpr std::chrono::seconds kUcxConnectTime{5};

// Where to come, and what to show there.
struct UcxInvitation {
  std::string address;  // IPv4 or IPv6.
  std::uint16_t port = 0;
  std::array<std::uint8_t, 16> ticket{};
};

// One for a process. Self-synchronised.
class Ucx {
 public:
  // Loads UCX. Sets variables of the environment for it, so it comes before other threads. kUnsupported: it is not installed.
  static Status Load();
  // Listens at a port of `address`; `served` (null: none) outlives it. Peers speak for any tenant but its owner, unless `owner`. UCX uses the network interface of `address` alone, and no shared memory, where
  // its variables UCX_NET_DEVICES and UCX_TLS do not say otherwise. kFailedPrecondition: it was not loaded. kUnavailable: UCX says why.
  static Result<std::unique_ptr<Ucx>> Start(const std::string& address, Device* served, bool owner = false);
  // Ends all connections, of devices too: they complete what is under way with kUnavailable.
  virtual ~Ucx() = default;
  // kResourceExhausted: too many were invited and did not come.
  virtual Result<UcxInvitation> Invite() = 0;
  // The device that gave the invitation.
  virtual Result<std::unique_ptr<Device>> Connect(const UcxInvitation& invitation) = 0;
};

}  // namespace godwit::device
