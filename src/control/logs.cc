#include "control/logs.h"

#include <algorithm>

namespace godwit::control {

void Logs::Append(const std::string& service, std::string line) {
  std::lock_guard lock(mutex_);
  auto lines = lines_.find(service);
  if (lines == lines_.end()) {
    if (lines_.size() >= kLogServicesMax) return;
    lines = lines_.try_emplace(service).first;
  }
  for (const auto& [id, follower] : followers_) {
    if (follower.first == service) follower.second(line);
  }
  lines->second.push_back(std::move(line));
  if (lines->second.size() > kLogLinesMax) lines->second.pop_front();
}

std::vector<std::string> Logs::Tail(const std::string& service, std::size_t tail) const {
  std::lock_guard lock(mutex_);
  const auto found = lines_.find(service);
  if (found == lines_.end()) return {};
  const auto& lines = found->second;
  return {lines.end() - static_cast<std::ptrdiff_t>(std::min(tail, lines.size())), lines.end()};
}

std::uint64_t Logs::Follow(const std::string& service, std::size_t tail, Listener listener) {
  std::lock_guard lock(mutex_);
  if (const auto found = lines_.find(service); found != lines_.end()) {
    const auto& lines = found->second;
    for (std::size_t i = lines.size() - std::min(tail, lines.size()); i < lines.size(); ++i) listener(lines[i]);
  }
  followers_.emplace(next_, std::pair(service, std::move(listener)));
  return next_++;
}

void Logs::Unfollow(std::uint64_t follower) {
  std::lock_guard lock(mutex_);
  followers_.erase(follower);
}

void Logs::Forget(const std::string& service) {
  std::lock_guard lock(mutex_);
  lines_.erase(service);
}

}  // namespace godwit::control
