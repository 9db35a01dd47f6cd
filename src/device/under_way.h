// Requests on their way by a driver, and whom to tell.
//
// Several users share a driver, and several connections a device: the numbers that they give to requests need not differ. So each
// request has another one on the way, drawn from 2^64 on, so that the counts of two connections do not meet.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "device/device.h"

namespace godwit::device {

// The completion of request `id`, of which nothing was done that is known.
Completion Failed(std::uint64_t id, Error error);

// Self-synchronised.
class UnderWay {
 public:
  UnderWay();
  // Gives `request` its number on the way; an abort names what it ends by that one's. False: it ends nothing that is under way here
  // (to the device its number would name another user's request); `done` was told, and nothing is to be sent.
  bool Begin(Request& request, Device::Done done);
  // Tells whoever waits for the request of that number on the way, by the number that he gave it; at most once.
  void Finish(Completion completion);
  // Tells all.
  void FailAll(const Error& error);

 private:
  struct Waiting {
    std::uint64_t id;
    std::string tenant;
    Device::Done done;
  };
  std::mutex mutex_;
  std::uint64_t next_;
  std::map<std::uint64_t, Waiting> waiting_;
};

}  // namespace godwit::device
