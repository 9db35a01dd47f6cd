// Takes from this process what its role does not need, for good: it can be entered, never left.
//
// A seccomp filter looks at every system call of every thread. What the role needs is let through; what nothing here ever
// does (running programs, tracing, mounting, loading code into the kernel) ends the process; anything else fails with EPERM.
// Whatever the role: no memory is writable and executable at once, processes are not forked, and programs that raise
// privileges have no effect. Not closed: files that the process's user may open (docs/security.md).
#pragma once

#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::sandbox {

enum class Role {
  kRunner,    // Runs one guest: files, and sockets that are there already.
  kDaemon,    // Agent, gateway, controller: makes connections too, and watches memory.
  kCompiler,  // Files only.
};

// Of the process that compiles a stranger's module.
inline constexpr ByteCount kCompilerAddressSpaceMax{16ull << 30};  // Libraries and reservations count too.
inline constexpr std::uint64_t kCompilerProcessorSecondsMax = 2 * 3600;
inline constexpr ByteCount kCompilerFileMax{4ull << 30};

// To be called before other threads exist. False where the system has no filters (as under emulation): then only new privileges
// are given up. An error leaves the process as it was.
Result<bool> Enter(Role role);

// Memory, processor time and file sizes are bounded, no core is dumped, and the process ends with its parent. What is over a
// limit ends the process.
Status LimitCompiler();

// Whether Enter would find filters here.
bool HasFilters();

// The names of the calls that a role may make on this ISA, and of those that end the process. Sorted, for tests and people.
std::vector<std::string_view> AllowedCalls(Role role);
std::vector<std::string_view> FatalCalls();

}  // namespace godwit::sandbox
