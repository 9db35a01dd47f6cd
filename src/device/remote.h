// A device on another machine, over a channel (messages.fbs: DeviceRequest, answered by DeviceCompletion).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "device/device.h"
#include "device/ucx.h"
#include "device/under_way.h"
#include "transport/channel.h"

namespace godwit::device {

// `connect` gives the channel for a request, on any thread: with a pool of channels, the one that is open.
class RemoteDevice final : public Device {
 public:
  using Connect = std::function<void(std::function<void(Result<std::shared_ptr<transport::Channel>>)>)>;
  explicit RemoteDevice(Connect connect);
  void Submit(Request request, Done done) override;

 private:
  const Connect connect_;
  const std::shared_ptr<UnderWay> under_way_;
};

using Invite = std::function<Result<UcxInvitation>(const std::string& trust_domain)>;

// Serves a frame that is a DeviceRequest: true. The peer has proved the cluster's token and speaks for any tenant but the
// device's owner, unless `owner`. On the loop, which has to outlive the device's threads: one of them may be the last to hold the channel.
// `invite` answers who asks how to connect by UCX (device/ucx.h); null: nobody can.
bool ServeDevice(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame, Device& device, bool owner = false, const Invite& invite = nullptr);

// Asks the other end of `channel` for an invitation to connect by UCX; `done` on the loop, once: kPermissionDenied where that end is not of that trust domain.
void AskInvitation(const std::shared_ptr<transport::Channel>& channel, const std::string& trust_domain, std::function<void(Result<UcxInvitation>)> done);

}  // namespace godwit::device
