// Typed expressions over the columns of a table: parsed and checked once, evaluated for many rows at a time.
//
//   l_shipdate >= date '1994-01-01' and l_discount between 0.05 and 0.07 and l_shipmode in ('MAIL', 'SHIP')
//
// Operators, loosest first: or; and; not; = != < <= > >= between in like, is null, is not null; + -; * /; a minus before a factor.
// Numbers are exact decimals (an integer times a power of ten) but for '/' and literals with an exponent, which are 64-bit IEEE 754.
// A condition used as a number is 1 or 0. 'like' knows % and _. A value may be null, as in SQL: so is what is computed from it, 'and'
// and 'or' only where the other side does not decide.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::device {

enum class TypeKind : std::uint8_t { kNumber, kReal, kText, kDate, kCondition };

struct Type {
  TypeKind kind = TypeKind::kNumber;
  int scale = 0;  // Of a number: digits after the point.
  friend bool operator==(const Type&, const Type&) = default;
};

// "int", "decimal(S)", "real", "text", "date". kInvalidArgument.
Result<Type> ParseType(std::string_view text);
std::string ToString(const Type& type);

struct ColumnDescription {
  std::string name;
  Type type;
};

// Values of one column or expression: `texts` of kText, `reals` of kReal, `numbers` otherwise (days since 1970 of a date).
// nulls[i] != 0: value i is null, and 0 or "" in its vector. Empty: none is.
struct Column {
  std::vector<std::int64_t> numbers;
  std::vector<double> reals;
  std::vector<std::string_view> texts;
  std::vector<std::uint8_t> nulls;

  bool IsNull(std::size_t row) const { return !nulls.empty() && nulls[row] != 0; }
};

struct Batch {
  std::size_t rows = 0;
  std::vector<Column> columns;  // As described; those that nobody needs are empty.
};

// Immutable once parsed.
class Expression {
 public:
  // kInvalidArgument naming the place: unknown columns, types that do not fit, more than 256 parts.
  static Result<std::shared_ptr<const Expression>> Parse(std::string_view text, const std::vector<ColumnDescription>& columns);
  virtual ~Expression() = default;
  virtual Type type() const = 0;
  // kInvalidArgument: a number became larger than 63 bits hold.
  virtual Status Evaluate(const Batch& batch, Column* to) const = 0;
  // Sets needed[i] where column i is used.
  virtual void MarkColumns(std::vector<bool>& needed) const = 0;
};

// One value out of text; kInvalidArgument. A date is YYYY-MM-DD (ISO 8601), a decimal has at most `scale` digits after its point.
Result<std::int64_t> ParseNumber(std::string_view text, int scale);
Result<std::int64_t> ParseDate(std::string_view text);
void AppendNumber(__int128 value, int scale, std::string& to);
void AppendDate(std::int64_t days, std::string& to);

}  // namespace godwit::device
