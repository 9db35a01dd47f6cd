// checksum: the CRC-32C (RFC 3720, B.4; Castagnoli) of a part, as 8 hexadecimal digits.
#include <array>

#include <fmt/format.h>

#include "device/arguments.h"
#include "device/built_in.h"

namespace godwit::device {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // Reflected.

// tables[k][b]: the CRC of byte b with k zero bytes after it ("slicing by 8", Kounavis and Berry 2005).
constexpr auto kTables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ kPolynomial : crc >> 1;
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) tables[k][byte] = tables[k - 1][byte] >> 8 ^ tables[0][tables[k - 1][byte] & 255];
  }
  return tables;
}();

std::uint32_t Continue(std::uint32_t crc, ByteView bytes) {
  crc = ~crc;
  std::size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    std::uint32_t low, high;
    __builtin_memcpy(&low, bytes.data() + i, 4);
    __builtin_memcpy(&high, bytes.data() + i + 4, 4);
    low ^= crc;
    crc = kTables[7][low & 255] ^ kTables[6][low >> 8 & 255] ^ kTables[5][low >> 16 & 255] ^ kTables[4][low >> 24] ^
          kTables[3][high & 255] ^ kTables[2][high >> 8 & 255] ^ kTables[1][high >> 16 & 255] ^ kTables[0][high >> 24];
  }
  for (; i < bytes.size(); ++i) crc = crc >> 8 ^ kTables[0][(crc ^ bytes[i]) & 255];
  return ~crc;
}

class ChecksumWork final : public Work {
 public:
  ChecksumWork(Part part, std::uint64_t position, std::uint32_t crc) : part_(part), position_(position), crc_(crc) {}
  Result<bool> Run(const Source& source, const Pace& pace, Bytes* output) override {
    while (position_ < part_.end) {
      GODWIT_ASSIGN(const ByteView window, source.Window(position_, std::min<std::uint64_t>(64 << 10, part_.end - position_), scratch_));
      if (window.empty()) break;
      crc_ = Continue(crc_, window);
      position_ += window.size();
      read_bytes_ += window.size();
      if (position_ < part_.end && pace.Over(output->size())) return false;
    }
    const std::string text = fmt::format("{:08x}", crc_);
    output->insert(output->end(), text.begin(), text.end());
    return true;
  }
  Result<Bytes> Save() override {
    const std::string text = nlohmann::json{{"position", position_}, {"crc", crc_}}.dump();
    return Bytes(text.begin(), text.end());
  }
  std::uint64_t read_bytes() const override { return read_bytes_; }

 private:
  const Part part_;
  std::uint64_t position_, read_bytes_ = 0;
  std::uint32_t crc_;
  Bytes scratch_;
};

class Checksum final : public Function {
 public:
  std::string_view name() const override { return "checksum"; }
  Result<std::unique_ptr<Work>> Begin(ByteView arguments, ByteView state, Part part) const override {
    if (!arguments.empty()) GODWIT_TRY(Arguments("arguments of checksum", arguments).Finish());
    if (state.empty()) return std::unique_ptr<Work>(std::make_unique<ChecksumWork>(part, part.begin, 0));
    Arguments saved("state of checksum", state);
    const std::uint64_t position = saved.Number("position", part.begin, part.begin, part.end);
    const auto crc = static_cast<std::uint32_t>(saved.Number("crc", 0, 0, ~0u));
    if (const Status status = saved.Finish(); !status.ok()) return Corrupt(status.error().message);
    return std::unique_ptr<Work>(std::make_unique<ChecksumWork>(part, position, crc));
  }
};

}  // namespace

std::shared_ptr<const Function> MakeChecksum() { return std::make_shared<Checksum>(); }

}  // namespace godwit::device
