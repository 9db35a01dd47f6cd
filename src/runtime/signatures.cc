#include "runtime/signatures.h"

#include <mutex>
#include <string>
#include <unordered_map>

namespace godwit::runtime {

Result<std::uint32_t> InternSignature(const fbs::FunctionType& type) {
  static std::mutex mutex;
  static auto* numbers = new std::unordered_map<std::string, std::uint32_t>;
  std::string key;
  if (type.params() != nullptr) {
    for (auto value : *type.params()) key.push_back(static_cast<char>(value));
  }
  key.push_back('\xff');
  if (type.results() != nullptr) {
    for (auto value : *type.results()) key.push_back(static_cast<char>(value));
  }
  std::lock_guard lock(mutex);
  if (const auto found = numbers->find(key); found != numbers->end()) return found->second;
  if (numbers->size() >= kSignaturesMax) {
    return ResourceExhausted("this process has seen too many different function types; restart it");
  }
  const auto number = static_cast<std::uint32_t>(numbers->size() + 1);
  numbers->emplace(std::move(key), number);
  return number;
}

}  // namespace godwit::runtime
