// Tables in text: comma-separated values (RFC 4180, with any delimiter and without line breaks in fields) to columns. An empty field
// of a column that is no text is null.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "device/expression.h"

namespace godwit::device {

struct TableFormat {
  char delimiter = ',';
  std::vector<ColumnDescription> columns;  // In the order of the fields; a line may have more fields.
};

// No rows, and as many columns as the format has.
void StartBatch(const TableFormat& format, Batch* to);
// A value from its text behind those that `to` has; `row` is for the error.
Status StoreField(const ColumnDescription& column, std::string_view field, std::size_t row, Column* to);

void StoreNull(const ColumnDescription& column, std::size_t row, Column* to);
// After the last row.
void FinishBatch(Batch* to);

class TableReader {
 public:
  // Only columns with needed[i] are filled.
  TableReader(TableFormat format, std::vector<bool> needed);
  // The rows of `lines` (whole lines), as far as `to` has room for kBatchRows; returns how many bytes they were. The texts
  // point into `lines`, or live until the next call. kInvalidArgument naming the column and the line (from `lines`' begin, 0 first).
  Result<std::size_t> Read(std::string_view lines, Batch* to);

  static constexpr std::size_t kBatchRows = 1024;

 private:
  const TableFormat format_;
  std::vector<bool> needed_;
  std::size_t last_needed_ = 0;
  std::deque<std::string> unquoted_;
};

}  // namespace godwit::device
