#include "agent/log_book.h"

#include <chrono>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

namespace godwit::agent {
namespace {

constexpr std::chrono::milliseconds kGather{200};

std::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kError: return "error";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kInfo: return "info";
    case LogLevel::kDebug: return "debug";
  }
  return "info";
}

std::string Now() {
  const auto now = std::chrono::system_clock::now();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(std::chrono::system_clock::to_time_t(now)), ms);
}

}  // namespace

LogBook::LogBook(ControlClient& control) : control_(control), thread_([this] { Main(); }) {}

LogBook::~LogBook() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void LogBook::Append(const Asker& from, const std::string& device, LogLevel level, std::string_view line) {
  const nlohmann::json record = {{"service", from.service.value}, {"instance", from.instance.value}, {"device", device},
                                 {"time", Now()},                 {"level", LevelName(level)},       {"message", line}};
  std::string text = record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const std::lock_guard lock(mutex_);
  if (lines_.size() >= kLinesMax) {
    lines_.pop_front();
    ++dropped_;
  }
  lines_.push_back(std::move(text));
  if (lines_.size() == 1 || lines_.size() == kBatchMax) changed_.notify_all();
}

void LogBook::Main() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait(lock, [this] { return stopping_ || !lines_.empty(); });
    changed_.wait_for(lock, kGather, [this] { return stopping_ || lines_.size() >= kBatchMax; });
    if (lines_.empty()) continue;
    std::string body = "{\"lines\":[";
    const std::size_t count = std::min(lines_.size(), kBatchMax);
    for (std::size_t i = 0; i < count; ++i) {
      if (i > 0) body += ',';
      body += lines_.front();
      lines_.pop_front();
    }
    body += "]}";
    const std::uint64_t dropped = std::exchange(dropped_, 0);
    lock.unlock();
    if (dropped > 0) spdlog::warn("{} log lines were dropped: they came faster than the controller took them", dropped);
    static_cast<void>(control_.Call("POST", "/v1/logs", body).ok());
    lock.lock();
  }
}

}  // namespace godwit::agent
