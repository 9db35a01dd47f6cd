#include "values.h"

#include <cstring>

#include <fmt/format.h>

namespace godwit::spec {
namespace {

template <typename T>
T Lane(const runtime::Cell& cell, int lane) {
  T value;
  std::memcpy(&value, cell.data() + static_cast<std::size_t>(lane) * sizeof(T), sizeof value);
  return value;
}

// A canonical NaN has the quiet bit alone in its payload; an arithmetic one has it among others. Any sign.
template <typename T>
bool FloatMatches(T bits, T expected, wabt::ExpectedNan nan) {
  constexpr bool kSingle = sizeof(T) == 4;
  constexpr T kQuiet = static_cast<T>(kSingle ? 0x7fc00000ull : 0x7ff8000000000000ull);
  constexpr T kSign = static_cast<T>(T{1} << (sizeof(T) * 8 - 1));
  switch (nan) {
    case wabt::ExpectedNan::None: return bits == expected;
    case wabt::ExpectedNan::Canonical: return (bits & ~kSign) == kQuiet;
    case wabt::ExpectedNan::Arithmetic: return (bits & kQuiet) == kQuiet;
  }
  return false;
}

bool VectorMatches(const runtime::Cell& cell, const wabt::Const& expected) {
  for (int lane = 0; lane < expected.lane_count(); ++lane) {
    bool same = false;
    switch (expected.lane_type()) {
      case wabt::Type::I8: same = Lane<std::uint8_t>(cell, lane) == expected.v128_lane<std::uint8_t>(lane); break;
      case wabt::Type::I16: same = Lane<std::uint16_t>(cell, lane) == expected.v128_lane<std::uint16_t>(lane); break;
      case wabt::Type::I32: same = Lane<std::uint32_t>(cell, lane) == expected.v128_lane<std::uint32_t>(lane); break;
      case wabt::Type::I64: same = Lane<std::uint64_t>(cell, lane) == expected.v128_lane<std::uint64_t>(lane); break;
      case wabt::Type::F32:
        same = FloatMatches(Lane<std::uint32_t>(cell, lane), expected.v128_lane<std::uint32_t>(lane), expected.expected_nan(lane));
        break;
      case wabt::Type::F64:
        same = FloatMatches(Lane<std::uint64_t>(cell, lane), expected.v128_lane<std::uint64_t>(lane), expected.expected_nan(lane));
        break;
      default: break;
    }
    if (!same) return false;
  }
  return true;
}

bool Matches(const Value& value, const wabt::Const& expected) {
  const auto low = Lane<std::uint32_t>(value.cell, 0);
  switch (expected.type()) {
    case wabt::Type::I32: return value.type == fbs::ValueType::i32 && low == expected.u32();
    case wabt::Type::I64: return value.type == fbs::ValueType::i64 && Lane<std::uint64_t>(value.cell, 0) == expected.u64();
    case wabt::Type::F32:
      return value.type == fbs::ValueType::f32 && FloatMatches(low, expected.f32_bits(), expected.expected_nan());
    case wabt::Type::F64:
      return value.type == fbs::ValueType::f64 &&
             FloatMatches(Lane<std::uint64_t>(value.cell, 0), expected.f64_bits(), expected.expected_nan());
    case wabt::Type::V128: return value.type == fbs::ValueType::v128 && VectorMatches(value.cell, expected);
    case wabt::Type::FuncRef:
      return value.type == fbs::ValueType::funcref && (low == 0) == (expected.ref_bits() == wabt::Const::kRefNullBits);
    case wabt::Type::ExternRef:
      return value.type == fbs::ValueType::externref && low == Lane<std::uint32_t>(ToCell(expected), 0);
    default: return false;
  }
}

std::string Hex(const runtime::Cell& cell, std::size_t bytes) {
  std::string text = "0x";
  for (std::size_t i = bytes; i-- > 0;) text += fmt::format("{:02x}", cell[i]);
  return text;
}

}  // namespace

runtime::Cell ToCell(const wabt::Const& value) {
  runtime::Cell cell{};
  const auto put = [&](const auto& bits) { std::memcpy(cell.data(), &bits, sizeof bits); };
  switch (value.type()) {
    case wabt::Type::I64: case wabt::Type::F64: put(value.u64()); break;
    case wabt::Type::V128: put(value.vec128()); break;
    case wabt::Type::FuncRef: case wabt::Type::ExternRef:
      put(value.ref_bits() == wabt::Const::kRefNullBits ? 0u : static_cast<std::uint32_t>(value.ref_bits()) + 1);
      break;
    default: put(value.u32());
  }
  return cell;
}

bool Matches(const Values& values, const wabt::ConstVector& expected, bool either) {
  if (either) {
    for (const wabt::Const& one : expected) {
      if (values.size() == 1 && Matches(values[0], one)) return true;
    }
    return false;
  }
  if (values.size() != expected.size()) return false;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!Matches(values[i], expected[i])) return false;
  }
  return true;
}

std::string Describe(const Values& values) {
  std::string text;
  for (const Value& value : values) {
    const bool wide = value.type == fbs::ValueType::i64 || value.type == fbs::ValueType::f64;
    const std::size_t bytes = value.type == fbs::ValueType::v128 ? 16 : wide ? 8 : 4;
    text += fmt::format("({} {})", fbs::EnumNameValueType(value.type), Hex(value.cell, bytes));
  }
  return text.empty() ? "nothing" : text;
}

std::string Describe(const wabt::ConstVector& values) {
  std::string text;
  for (const wabt::Const& value : values) {
    const bool wide = value.type() == wabt::Type::I64 || value.type() == wabt::Type::F64;
    const std::size_t bytes = value.type() == wabt::Type::V128 ? 16 : wide ? 8 : 4;
    text += fmt::format("({} {}{})", value.type().GetName(), value.is_expected_nan() ? "nan " : "", Hex(ToCell(value), bytes));
  }
  return text.empty() ? "nothing" : text;
}

}  // namespace godwit::spec
