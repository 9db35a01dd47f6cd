// Where a function runs over a dataset: on the device that holds the data, or at the caller, to which the data then moves.
//
// Cost of a byte of data at a site = compute + what moves because of it, or the larger of both where data is read ahead; a request's also has the
// site's queue and the link's latency. What is not known yet comes from the device's profile; what was measured replaces it (exponentially weighted). Work leaves the place of
// its last piece when what staying has cost, by the predictions, adds up to kDoubtMax pieces: at once where the other place is much cheaper, and where it
// is a little, not before that has lasted, since a device that stands still now and then makes what is measured there jump. One
// piece of work in kExploreEvery goes where it would not have gone, so that what is not used is not forgotten; that is the rate of
// lambda-IO (5 of every 200 requests run on both sides). Where that is predicted to cost more than twice as much, it is done that much more seldom:
// exploring adds 1/kExploreEvery to what all pieces cost, at most. Exploring goes on for kExploreForUs, that much more seldom, and short pieces that begin
// within kSettleUs of a change of place do not count: they find it as what ran until then has left it, a device perhaps that was busy with reads for it.
//
// Data that is read away from where it lies stays there as a copy, if there is room. What a copy would have saved so far, had it been there, is added
// up; once that is as much as copying costs, work goes where it completes the copy. So all of it costs at most twice what it would have
// with the future known (ski rental; Karlin et al., 1988).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace godwit::placement {

inline constexpr double kDoubtMax = 4;
inline constexpr int kExploreEvery = 40;
inline constexpr double kExploreForUs = 250e3;
inline constexpr double kSettleUs = 100e3;  // A period of a CPU quota.

// A place where the work could be done.
struct OffloadSite {
  std::string device;
  bool holds_data = false;
  double speed = 1;           // Of its cores, until it was measured for the function.
  double queue_us = 0;        // Before the work begins, as last seen there.
  double here = 0;            // Of the data that is to be read, the share of which it has a copy.
  // The copy that work there would complete, and how many bytes it lacks; empty: it cannot have one.
  std::string copy = {};
  std::uint64_t to_copy = 0;
};

// Between the sites; until it was measured, 1 Gbit/s: data that need not move stays where it is.
struct OffloadLink {
  double bytes_per_second = 125e6;
  double latency_us = 100;
  // So many bytes took so long.
  void Learn(std::uint64_t bytes, double us);
};

struct OffloadCost {
  double movement_us = 0, queue_us = 0, compute_us = 0;
  double total_us() const { return movement_us + queue_us + compute_us; }
};

struct OffloadChoice {
  std::size_t site = 0;
  bool explored = false;           // It is not the cheapest, by intent.
  bool copies = false;             // Nor here: so that later work finds a copy.
  std::vector<OffloadCost> costs;  // Predicted, one for each site.
};

// What one piece of work was.
struct OffloadMeasurement {
  std::uint64_t read_bytes = 0, output_bytes = 0;
  double busy_us = 0, queue_us = 0, total_us = 0, cpu_us = 0;
};

// What is known of one function at one device.
struct OffloadKnowledge {
  double ns_per_byte = 0;
  double cpu_ns_per_byte = 0;  // What the processor works; ns_per_byte has its waits too.
  double queue_us = 0;
  double piece_us = 0;  // That a piece took, with all of it.
  std::uint64_t pieces = 0;
  double stale = 0;         // How old this was when measuring went on, in pieces of all,
  std::uint64_t since = 0;  // and measurements since then.
  std::vector<double> errors;  // |predicted - measured| / measured of the last pieces, oldest first.
  std::uint64_t used = 0;      // When, in pieces of all.
  std::optional<double> median_error() const;
};

// What a function costs depends on its arguments: work is learned by "function#arguments" (any text after '#'), and by "function" for
// arguments that are new. At most kKnownMax of them with a device each are remembered, the least recently used go first.
inline constexpr std::size_t kKnownMax = 4096;

// Guarded by its user.
class OffloadChooser {
 public:
  // `sites` is not empty; `bytes`: of data that is left to be read; `now_us`: of a clock that does not go back.
  OffloadChoice Choose(const std::string& function, const std::vector<OffloadSite>& sites, const OffloadLink& link, std::uint64_t bytes, double now_us);
  // `predicted`: for the bytes that were read (Predict again with them), or nullopt.
  void Learn(const std::string& function, const std::string& device, const OffloadMeasurement& measured, std::optional<double> predicted_us, double now_us);
  // A piece of work at the data read so many bytes and took so long; `away` is where a copy could be.
  void LearnOfCopy(const std::string& function, OffloadSite away, const OffloadLink& link, std::uint64_t read_bytes, double total_us);
  OffloadCost Predict(const std::string& function, const OffloadSite& site, const OffloadLink& link, std::uint64_t bytes) const;

  double selectivity(const std::string& function) const;  // Output bytes per byte read.
  const std::map<std::pair<std::string, std::string>, OffloadKnowledge>& known() const { return known_; }

 private:
  struct Habit {
    std::optional<bool> near = {};  // Where it ran last, but for exploring.
    double doubt = 0;               // In pieces of the cheaper place: what staying has cost, by the predictions.
    std::string at = {};            // Where pieces go now, exploring too,
    double since_us = 0;            // and since when.
  };
  double NsPerByte(const std::string& function, const OffloadSite& site) const;
  // Fills in the rest of a choice that has its costs. Two sites, or more.
  void Decide(const std::string& function, const std::vector<OffloadSite>& sites, const OffloadLink& link, double now_us, Habit& habit, OffloadChoice* choice);
  void GoesOn(OffloadKnowledge& known) const;
  void LearnOne(const std::string& function, const std::string& device, const OffloadMeasurement& measured, std::optional<double> predicted_us);

  std::map<std::pair<std::string, std::string>, OffloadKnowledge> known_;  // By function and device.
  std::map<std::string, double> selectivity_;
  std::map<std::string, double> saved_us_;  // By a copy that was not there. Of at most kKnownMax.
  std::map<std::string, Habit> habits_;  // By function. Of at most kKnownMax.
  struct Exploration {
    double unexplored = 0;  // Choices since the last one, over kExploreEvery.
    int pieces = 0;         // That have gone where they would not; 0: it is not time.
    double since_us = 0;    // When the first did.
    int last_pieces = 1;    // Of the last time.
  };
  std::map<std::string, Exploration> explorations_;  // By function, without arguments. Of at most kKnownMax.
  std::uint64_t pieces_ = 0;
};

}  // namespace godwit::placement
