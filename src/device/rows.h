// Rows: the rows of a part of a table, whatever its format, as columns.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/result.h"
#include "device/arguments.h"
#include "device/expression.h"
#include "device/function.h"
#include "device/table.h"

namespace godwit::device {

// One thread at a time.
class Rows {
 public:
  virtual ~Rows() = default;
  // The next rows, at most TableReader::kBatchRows; false at the part's end. Texts live until the next call. kInvalidArgument names the place.
  virtual Result<bool> Next(const Source& source, Batch* to) = 0;
  // Whether Save would be of a place just behind the last row that Next gave. So it is again and again, after about 64 KiB of data.
  virtual bool between() const = 0;
  // Members of a JSON object for the same kind of rows to go on from.
  virtual nlohmann::json Save() const = 0;
  virtual std::uint64_t read_bytes() const = 0;
};

struct RowsOptions {
  TableFormat format;
  std::vector<bool> needed;  // Columns of format; the others stay empty.
  Part part;
  bool header = false;  // The first line names the columns.
};

// `saved` is null at the start; else what Save gave is read from it, and errors are left in it.
// Comma-separated values.
std::unique_ptr<Rows> MakeTextRows(RowsOptions options, Arguments* saved);
// JSON lines: an object on each line; columns are its members, by name, null where they are missing. What else it has is skipped.
std::unique_ptr<Rows> MakeJsonRows(RowsOptions options, Arguments* saved);
// Apache Arrow IPC, stream or file, uncompressed: columns are found by name, and their types must fit. A record batch belongs to the part
// in which its message begins, and the columns needed of one are held at once: at most kArrowBatchBytesMax.
inline constexpr std::size_t kArrowBatchBytesMax = 64 << 20;
std::unique_ptr<Rows> MakeArrowRows(RowsOptions options, Arguments* saved);

}  // namespace godwit::device
