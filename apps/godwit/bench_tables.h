// Tables for benchmarks: TPC-H's lineitem by the distributions of the specification (revision 3, clause 4.2.3), as comma-separated values, and questions after its
// queries 1, 6, 12 and 14: what they ask of lineitem alone, since a device scans one table.
//
// Not TPC-H: comments are words in no grammar, seeds are not dbgen's, and no result may be called a TPC's.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace godwit::cli {

// The rows of scale factor `scale` (1: about 6,001,000 of them, 730 MB), in pieces of whole lines; equal for equal scales.
void WriteLineitem(double scale, const std::function<void(std::string_view)>& sink);

// A smaller table, 64 MiB: row,draw,quantity,price,day,comment, `draw` uniform below 10,000.
std::string FilterTable();

struct LineitemQuestion {
  std::string name;
  std::string arguments;  // Of the built-in function "scan".
};
std::vector<LineitemQuestion> LineitemQuestions();

}  // namespace godwit::cli
