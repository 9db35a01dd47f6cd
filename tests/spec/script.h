// A test script (.wast) of the WebAssembly specification as a list of commands.
//
// The file is cut into its top-level forms, and each is parsed by itself with libwabt, so that one that libwabt cannot
// parse does not lose the rest. Modules stay as source (text or bytes): the engine reads them as it reads any other.
#pragma once

#include <wabt/ir.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::spec {

// What a module command or assertion is about.
struct ModuleSource {
  std::string name;  // "$M", or empty.
  Bytes source;      // Binary, or text.
};

struct Action {
  bool get = false;          // Of a global; else a call.
  std::string module;        // "$M", or empty: the latest.
  std::string field;
  wabt::ConstVector arguments;
};

struct Command {
  enum class Kind {
    kModule, kRegister, kAction, kAssertReturn, kAssertTrap, kAssertExhaustion, kAssertException,
    kAssertInvalid, kAssertMalformed, kAssertUnlinkable, kAssertUninstantiable,
    kUnparsable,  // libwabt does not parse it: `text` says why.
  };
  Kind kind = Kind::kUnparsable;
  bool assertion = true;
  int line = 0;
  ModuleSource module;
  Action action;
  wabt::ConstVector expected;  // One of several if `either`.
  bool either = false;
  std::string text;  // Expected message; kRegister: the name to register under, module.name being whose.
};

// kInvalidArgument if the parentheses do not match.
Result<std::vector<Command>> ParseScript(std::string_view source);

}  // namespace godwit::spec
