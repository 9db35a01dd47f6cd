// Values of test scripts: arguments as the engine takes them, results as assertions describe them.
#pragma once

#include <wabt/ir.h>

#include <string>
#include <vector>

#include "package/module_generated.h"
#include "runtime/instance.h"

namespace godwit::spec {

struct Value {
  fbs::ValueType type;
  runtime::Cell cell;
  bool operator==(const Value&) const = default;
};
using Values = std::vector<Value>;

// (ref.extern N) is the host reference N + 1, since 0 is null.
runtime::Cell ToCell(const wabt::Const& value);
// NaN patterns, lanes, and references are compared as the specification's script language says.
bool Matches(const Values& values, const wabt::ConstVector& expected, bool either);
std::string Describe(const Values& values);
std::string Describe(const wabt::ConstVector& values);

}  // namespace godwit::spec
