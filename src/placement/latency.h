// Latency: what a move would do to the requests of what moves and of what runs at the target already, and to the target's power.
//
// An instance answers one request at a time, so that it is a queue with one server: with exponential gaps and work its sojourn time is
// exponential with rate mu - lambda (Kleinrock, Queueing Systems I, 3.2), and 99 of 100 requests take at most ln(100) / (mu - lambda). mu is what
// is left of the device's cores, at most one of them, by the work of a request. What was measured beyond the model where the instance
// is (waits for other services, the network) is taken to stay.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace godwit::placement {

// Of one instance, as its device measured it.
struct InstanceUse {
  std::string instance;
  double requests_per_second = 0;
  double cpu_ms = 0;  // Of one request, on this device's core.
  double p99_ms = 0;  // 0: not known.
};

struct DeviceUse {
  double cores = 1;
  double speed = 1;        // Of one core; the same unit for all devices.
  double other_cores = 0;  // Busy with what is none of the instances.
  double core_watts = 0;   // Of a busy core: a model. 0: not known.
  std::vector<InstanceUse> instances;
};

// Busy with all of it; more than `cores` where it is asked for more than it has.
double BusyCores(const DeviceUse& device);
// By the model alone; infinite where the queue would grow without end. 0 for an instance without requests.
double ModelP99Ms(const DeviceUse& device, std::size_t instance);

struct MoveForecast {
  double p99_ms = 0;               // Of what moves.
  std::vector<double> others_ms;   // Of the target's instances, in their order; 0 where it is not known.
  double busy_cores = 0, watts = 0;  // Of the target.
};
// `mover` of `source` goes to `target`, which has it not.
MoveForecast ForecastMove(const DeviceUse& source, std::size_t mover, const DeviceUse& target);

}  // namespace godwit::placement
