// A function's whole output, kept on the device that holds the data: as a new dataset there, for others to use near it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/environment.h"
#include "device/device.h"

namespace godwit::agent {

// Of one result: it is made in the device's memory first.
inline constexpr std::size_t kResultBytesMax = 8 << 20;

// Runs `request`, an Execute over an object of `device`, piece after piece into memory of the device, and stores that as the object `result`: only the
// function's state passes by here. `submit` submits an Execute. `done` gets the bytes kept, once, on any thread: kResourceExhausted where they are
// more than kResultBytesMax or the device has too much to do, kFailedPrecondition where there is another dataset of that name. The
// same result once more is no error, so a caller that was interrupted may ask again. Cancelling ends the work soon; `done` is called all the same.
std::shared_ptr<Pending> KeepResult(std::shared_ptr<device::Device> device, std::function<void(device::Request, device::Device::Done)> submit,
                                    device::Request request, const std::string& result, std::function<void(Result<std::uint64_t>)> done);

}  // namespace godwit::agent
