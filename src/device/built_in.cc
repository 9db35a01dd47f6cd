#include "device/built_in.h"

namespace godwit::device {

std::vector<std::shared_ptr<const Function>> BuiltInFunctions() {
  return {MakeScan(), MakeMatch(), MakeChecksum(), MakeGather(), MakeChase(), MakeLookup(), MakePairs(), MakeFollow()};
}

}  // namespace godwit::device
