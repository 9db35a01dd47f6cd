// Timed samples and what is said of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

namespace godwit::cli {

struct Samples {
  std::vector<double> values;

  bool empty() const { return values.empty(); }
  double At(double share) const {
    std::vector<double> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)];
  }
  double Median() const { return At(0.5); }
  double Min() const { return At(0); }
  double Max() const { return At(1); }
  nlohmann::json ToJson() const {
    return {{"median", Median()}, {"min", Min()}, {"max", Max()}, {"p99", At(0.99)}, {"n", values.size()}};
  }
};

inline double GeometricMean(const std::vector<double>& values) {
  double logs = 0;
  for (double value : values) logs += std::log(value);
  return std::exp(logs / static_cast<double>(values.size()));
}

}  // namespace godwit::cli
