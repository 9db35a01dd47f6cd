// Running another program to its end and reading what it said.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace godwit::cli {

enum class Complaints { kPassOn, kCollect, kDrop };  // What becomes of the program's standard error.

struct Finished {
  int code = 0;        // Its exit code; 128 + N when signal N ended it.
  std::string output;  // Standard output, and standard error where collected.
};

// Runs command[0] (a path, or a name looked up as the shell does and in the sbin folders). At most
// kProcessOutputMax bytes of output are kept. kNotFound if there is no such program; an exit code is no
// error.
inline constexpr std::size_t kProcessOutputMax = 16 << 20;
Result<Finished> RunProcess(const std::vector<std::string>& command, Complaints complaints);

// The same, and an exit code other than 0 is kInternal with what the program said.
Status RunOrFail(const std::vector<std::string>& command);

// The path of this very program, for running it again.
std::string OwnPath();

}  // namespace godwit::cli
