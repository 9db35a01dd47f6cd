#include "model/ids.h"

#include <sys/random.h>

#include <charconv>

namespace godwit::model {
namespace {

void FillRandom(void* to, std::size_t size) {
  auto* bytes = static_cast<unsigned char*>(to);
  while (size != 0) {
    const ssize_t got = getrandom(bytes, size, 0);
    if (got < 0 && errno == EINTR) continue;
    GODWIT_CHECK(got > 0, "getrandom failed");
    bytes += got;
    size -= static_cast<std::size_t>(got);
  }
}

bool IsLowerOrDigit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

Status CheckNameWith(std::string_view what, std::string_view name, std::string_view inside, std::size_t length_max) {
  const auto wrong = [&](const std::string& reason) {
    return InvalidArgument(std::string(what) + " '" + std::string(name.substr(0, 80)) + "': " + reason);
  };
  if (name.empty()) return wrong("is empty");
  if (name.size() > length_max) return wrong("is longer than " + std::to_string(length_max) + " characters");
  if (!IsLowerOrDigit(name.front()) || !IsLowerOrDigit(name.back())) {
    return wrong("must begin and end with one of a-z and 0-9");
  }
  for (const char c : name) {
    if (!IsLowerOrDigit(c) && inside.find(c) == inside.npos) {
      return wrong("only a-z, 0-9 and '" + std::string(inside) + "' are allowed");
    }
  }
  return {};
}

}  // namespace

BootId BootId::Random() {
  BootId id;
  while (id.value == 0) FillRandom(&id.value, sizeof id.value);
  return id;
}

std::string BootId::ToString() const {
  std::string text(16, '0');
  for (int i = 0; i < 16; ++i) text[15 - i] = "0123456789abcdef"[(value >> (4 * i)) & 15];
  return text;
}

std::optional<BootId> BootId::Parse(std::string_view text) {
  BootId id;
  if (text.size() != 16) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id.value, 16);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return id;
}

Status CheckName(std::string_view what, std::string_view name) {
  return CheckNameWith(what, name, "-", kNameLengthMax);
}

Status CheckDatasetName(std::string_view name) { return CheckNameWith("dataset name", name, "-._", kNameLengthMax); }

DatasetName WholeOf(const DatasetName& dataset) {
  const std::string& name = dataset.value;
  const auto dot = name.rfind('.');
  if (dot == std::string::npos || dot + 1 == name.size()) return dataset;
  const bool part = name.find_first_not_of("0123456789", dot + 1) == std::string::npos || name.substr(dot + 1) == "parts";
  return part ? DatasetName(name.substr(0, dot)) : dataset;
}

std::string RandomId(std::string_view prefix) {
  static constexpr char kAlphabet[] = "abcdefghijklmnopqrstuvwxyz012345";  // 32, so that 5 bits are one character.
  unsigned char random[8];
  FillRandom(random, sizeof random);
  std::string id(prefix);
  id += '-';
  for (const unsigned char byte : random) id += kAlphabet[byte % 32];
  return id;
}

}  // namespace godwit::model
