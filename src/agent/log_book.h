// LogBook: the services' log lines on their way to the controller, in batches and in bounded memory.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "agent/control_client.h"
#include "agent/environment.h"

namespace godwit::agent {

// Self-synchronised.
class LogBook {
 public:
  static constexpr std::size_t kLinesMax = 10'000;  // Waiting; the oldest go first, and a line says how many.
  static constexpr std::size_t kBatchMax = 500;
  // `control` outlives the book.
  explicit LogBook(ControlClient& control);
  ~LogBook();
  void Append(const Asker& from, const std::string& device, LogLevel level, std::string_view line);

 private:
  void Main();

  ControlClient& control_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> lines_;  // JSON
  std::uint64_t dropped_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace godwit::agent
