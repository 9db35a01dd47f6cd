#include "placement/offload.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace godwit::placement {
namespace {

constexpr double kPriorNsPerByte = 2;   // 500 MB/s on a core of the host profile: what text takes.
constexpr double kPriorSelectivity = 0.1;
// Of what was measured last: little, since a device whose share of a processor is limited stalls now and then for much longer than
// its work takes; more, where what is known is old.
constexpr double kWeight = 0.02;
constexpr double kOldCounts = 1;  // Of measurements: what that is worth which was old.
constexpr std::size_t kErrorsKept = 64;
constexpr double kLinkWeight = 0.1;
constexpr std::uint64_t kBytesOfLinkMin = 64 << 10;  // Below, what is measured is latency.
constexpr std::uint64_t kBytesToLearnMin = 4096;  // Below, what is measured is latency.

std::string WithoutArguments(const std::string& function) { return function.substr(0, function.find('#')); }

// What was old is replaced by the mean of what is measured since: the last of a few measurements is not worth more than the others.
double Weight(const OffloadKnowledge& known) {
  const auto since = static_cast<double>(known.since);
  return std::max({kWeight, std::min(kWeight * known.stale, 1.0) / (since + kOldCounts), 1.0 / static_cast<double>(known.pieces + 1)});
}

// Of at most kKnownMax that are remembered.
template <typename Value>
Value& Of(std::map<std::string, Value>& known, const std::string& name) {
  if (known.size() >= kKnownMax && known.count(name) == 0) known.erase(known.begin());
  return known[name];
}

double Blend(double before, double now, double weight) { return before + weight * (now - before); }

}  // namespace

// Of the time for a byte: a mean of speeds would hardly see a link that stands still now and then, which takes the most time.
void OffloadLink::Learn(std::uint64_t bytes, double us) {
  if (bytes < kBytesOfLinkMin || us <= 0) return;
  const double before = 1 / bytes_per_second, now = us / 1e6 / static_cast<double>(bytes);
  bytes_per_second = 1 / (before + kLinkWeight * (now - before));
}

std::optional<double> OffloadKnowledge::median_error() const {
  if (errors.empty()) return std::nullopt;
  std::vector<double> sorted = errors;
  std::sort(sorted.begin(), sorted.end());
  return sorted[sorted.size() / 2];
}

double OffloadChooser::selectivity(const std::string& function) const {
  for (const std::string& key : {function, WithoutArguments(function)}) {
    const auto found = selectivity_.find(key);
    if (found != selectivity_.end()) return found->second;
  }
  return kPriorSelectivity;
}

// Not measured there: as elsewhere, by the speeds; not measured anywhere: the prior.
double OffloadChooser::NsPerByte(const std::string& function, const OffloadSite& site) const {
  for (const std::string& key : {function, WithoutArguments(function)}) {
    const auto found = known_.find({key, site.device});
    if (found != known_.end() && found->second.ns_per_byte > 0) return found->second.ns_per_byte;
  }
  return kPriorNsPerByte / site.speed;
}

OffloadCost OffloadChooser::Predict(const std::string& function, const OffloadSite& site, const OffloadLink& link, std::uint64_t bytes) const {
  const double read = static_cast<double>(bytes), moved = site.holds_data ? read * selectivity(function) : read * (1 - site.here);
  OffloadCost cost;
  cost.compute_us = read * NsPerByte(function, site) / 1e3;
  cost.movement_us = moved / link.bytes_per_second * 1e6;
  if (!site.holds_data) cost.movement_us = std::max(0.0, cost.movement_us - cost.compute_us);  // It is read ahead: the rest hides behind the work.
  if (moved > 0 || site.holds_data) cost.movement_us += link.latency_us;
  cost.queue_us = site.queue_us;
  return cost;
}

OffloadChoice OffloadChooser::Choose(const std::string& function, const std::vector<OffloadSite>& sites, const OffloadLink& link, std::uint64_t bytes, double now_us) {
  OffloadChoice choice;
  for (const OffloadSite& site : sites) choice.costs.push_back(Predict(function, site, link, bytes));
  const auto cheaper = [](const OffloadCost& a, const OffloadCost& b) { return a.total_us() < b.total_us(); };
  choice.site = static_cast<std::size_t>(std::min_element(choice.costs.begin(), choice.costs.end(), cheaper) - choice.costs.begin());
  if (sites.size() == 1) return choice;
  Habit& habit = Of(habits_, function);
  Decide(function, sites, link, now_us, habit, &choice);
  if (habit.at != sites[choice.site].device) {
    habit.since_us = habit.at.empty() ? now_us - kSettleUs : now_us;  // Nothing ran before the first.
    habit.at = sites[choice.site].device;
  }
  return choice;
}

void OffloadChooser::Decide(const std::string& function, const std::vector<OffloadSite>& sites, const OffloadLink& link, double now_us, Habit& habit, OffloadChoice* made) {
  OffloadChoice& choice = *made;
  const bool leaves = habit.near && *habit.near != sites[choice.site].holds_data;
  const std::size_t there = (choice.site + 1) % sites.size();
  const double dearer_there = choice.costs[there].total_us() / std::max(choice.costs[choice.site].total_us(), 1.0) - 1;
  habit.doubt = leaves ? habit.doubt + dearer_there : std::max(0.0, habit.doubt - dearer_there);
  if (leaves && habit.doubt < kDoubtMax) choice.site = there;
  else if (leaves) habit.doubt = 0;
  habit.near = sites[choice.site].holds_data;
  const OffloadSite& away = sites[sites[0].holds_data ? 1 : 0];
  const auto saved = saved_us_.find(away.copy);
  if (saved != saved_us_.end() && away.to_copy == 0) {
    saved_us_.erase(saved);  // Should it have to make room, it is to pay again.
  } else if (saved != saved_us_.end() && saved->second >= static_cast<double>(away.to_copy) / link.bytes_per_second * 1e6) {
    choice.site = sites[0].holds_data ? 1 : 0;
    choice.copies = true;
    return;
  }
  const std::size_t other = (choice.site + 1) % sites.size();
  const double dearer = choice.costs[other].total_us() / std::max(choice.costs[choice.site].total_us(), 1.0) - 1;
  Exploration& exploration = Of(explorations_, WithoutArguments(function));
  exploration.unexplored += 1.0 / kExploreEvery;
  if (exploration.pieces == 0) {
    if (exploration.unexplored < exploration.last_pieces * std::max(dearer, 1.0) - 1e-9) return;
    exploration.unexplored = 0;
    exploration.since_us = now_us;
  } else if (now_us - exploration.since_us >= kExploreForUs) {
    exploration.last_pieces = std::exchange(exploration.pieces, 0);
    return;
  }
  ++exploration.pieces;
  choice.site = other;
  choice.explored = true;
}

void OffloadChooser::LearnOfCopy(const std::string& function, OffloadSite away, const OffloadLink& link, std::uint64_t read_bytes, double total_us) {
  if (away.copy.empty() || away.to_copy == 0) return;
  away.here = 1;
  const double saved = total_us - Predict(function, away, link, read_bytes).total_us();
  if (saved <= 0) return;
  Of(saved_us_, away.copy) += saved;
}

void OffloadChooser::Learn(const std::string& function, const std::string& device, const OffloadMeasurement& measured, std::optional<double> predicted_us, double now_us) {
  ++pieces_;
  if (const auto habit = habits_.find(function); habit != habits_.end() && habit->second.at == device) {
    // By what a piece takes there, not by what this one took: else the slow ones alone would count.
    const auto known = known_.find({function, device});
    if (known != known_.end() && known->second.piece_us < kSettleUs && now_us - measured.total_us < habit->second.since_us + kSettleUs) {
      ++known->second.pieces;
      return GoesOn(known->second);
    }
  }
  LearnOne(function, device, measured, predicted_us);
  if (const std::string whole = WithoutArguments(function); whole != function) LearnOne(whole, device, measured, predicted_us);
  while (known_.size() > kKnownMax) {
    const auto oldest = std::min_element(known_.begin(), known_.end(), [](const auto& a, const auto& b) { return a.second.used < b.second.used; });
    selectivity_.erase(oldest->first.first);
    known_.erase(oldest);
  }
}

// There is work again.
void OffloadChooser::GoesOn(OffloadKnowledge& known) const {
  if (const auto age = pieces_ - known.used; age > 1) {
    known.stale = static_cast<double>(age);
    known.since = 0;
  }
  known.used = pieces_;
}

void OffloadChooser::LearnOne(const std::string& function, const std::string& device, const OffloadMeasurement& measured,
                              std::optional<double> predicted_us) {
  OffloadKnowledge& known = known_[{function, device}];
  GoesOn(known);
  ++known.since;
  const double weight = Weight(known);
  known.piece_us = known.pieces == 0 ? measured.total_us : Blend(known.piece_us, measured.total_us, weight);
  known.queue_us = Blend(known.queue_us, measured.queue_us, weight);
  ++known.pieces;
  if (predicted_us && measured.total_us > 0) {
    known.errors.push_back(std::abs(*predicted_us - measured.total_us) / measured.total_us);
    if (known.errors.size() > kErrorsKept) known.errors.erase(known.errors.begin());
  }
  if (measured.read_bytes < kBytesToLearnMin) return;
  const double read = static_cast<double>(measured.read_bytes), ns_per_byte = measured.busy_us * 1e3 / read;
  known.ns_per_byte = known.ns_per_byte == 0 ? ns_per_byte : Blend(known.ns_per_byte, ns_per_byte, weight);
  known.cpu_ns_per_byte = known.cpu_ns_per_byte == 0 ? measured.cpu_us * 1e3 / read : Blend(known.cpu_ns_per_byte, measured.cpu_us * 1e3 / read, weight);
  const double selectivity = static_cast<double>(measured.output_bytes) / read;
  const auto [found, first] = selectivity_.emplace(function, selectivity);
  if (!first) found->second = Blend(found->second, selectivity, weight);
}

}  // namespace godwit::placement
